"use strict";
(() => {
  // Refreshes the page: what has changed is replaced, all else stays, with what is selected, sorted, zoomed or scrolled.
  const PERIOD_MS = 2000;
  const token = new URLSearchParams(location.search).get("token");
  const say = (text) => { document.getElementById("answer").textContent = text; };

  globalThis.figureOf = async (place) => {
    const answer = await fetch(place.dataset.source).catch(() => null);
    return answer?.ok ? answer.text() : "";
  };

  function update(old, fresh) {
    if (old.isEqualNode(fresh) || (old.id && old.id === fresh.id && old.matches(".chart"))) return;
    const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
    const alike = old.nodeName === fresh.nodeName && before.length > 0 && before.length === after.length
      && before.every((node, place) => node.nodeName === after[place].nodeName);
    if (!alike) {
      old.replaceWith(fresh);
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "aria-sort") old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) old.setAttribute(name, value);
    before.forEach((node, place) => update(node, after[place]));
  }

  let version = null;
  let problem = "";
  async function refresh() {
    const headers = version ? { "If-None-Match": version } : {};
    const answer = await fetch(location.href, { headers, cache: "no-store" }).catch(() => null);
    const before = problem;
    if (answer === null) problem = "the dashboard does not answer";
    else problem = answer.ok || answer.status === 304 ? "" : await answer.text();
    if (problem !== before) say(problem && `This page is no longer kept up to date: ${problem}`);
    document.body.classList.toggle("gone", problem !== "");
    if (!answer?.ok) return;
    version = answer.headers.get("ETag");
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of ["header", "main"]) update(document.querySelector(part), fresh.querySelector(part));
    renew();
  }
  async function watch() {
    if (!document.hidden) await refresh();
    setTimeout(watch, PERIOD_MS);
  }
  if ("live" in document.body.dataset) setTimeout(watch, PERIOD_MS);

  document.addEventListener("click", async ({ target }) => {
    const button = target.closest("button[data-post]");
    const { post, field, trial } = button?.dataset ?? {};
    if (!button || (field && !document.getElementById(field).reportValidity()) || !confirm(button.title)) return;
    const body = JSON.stringify({ trial: trial ?? null, more: field ? document.getElementById(field).valueAsNumber : null });
    button.disabled = true;
    say("asked …");
    const sent = { method: "POST", headers: { "X-Token": token, "Content-Type": "application/json" }, body };
    const asked = fetch(post, sent).catch(() => null);
    refresh();  // which tells what is asked
    const answer = await asked;
    say(answer ? await answer.text() : "the dashboard does not answer");
    button.disabled = false;
    refresh();
  });
})();
