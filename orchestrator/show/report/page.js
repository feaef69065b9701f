"use strict";
(() => {
  // Charts are drawn when they come near the screen, in the colours of the page, without buttons that save elsewhere.
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const narrow = () => window.innerWidth < 640;

  // What depends on the screen, as a template of Plotly's: a chart's own layout goes before it.
  function theme() {
    const [ink, line, clear] = [style("--ink"), style("--line"), "rgba(0,0,0,0)"];
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, exponentformat: "power" };
    return { layout: {
      font: { color: ink, family: getComputedStyle(document.body).fontFamily, size: narrow() ? 11 : 13 },
      paper_bgcolor: clear,
      plot_bgcolor: clear,
      margin: { l: narrow() ? 48 : 60, r: 16, t: 12, b: 48 },
      showlegend: true,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      modebar: { bgcolor: clear, color: style("--soft"), activecolor: ink },
      hoverlabel: { bgcolor: style("--raised"), font: { color: ink }, bordercolor: line },
      annotationdefaults: { bgcolor: style("--paper"), borderpad: 1 },
      dragmode: narrow() ? false : "zoom",
      xaxis: axis,
      yaxis: axis,
    } };
  }

  // Colours that a dark page would swallow.
  const brighter = [["#0072b2", "#56a8e0"], ["rgba(0,114,178,", "rgba(86,168,224,"], ["#009e73", "#3cd6aa"],
    ["rgba(0,158,115,", "rgba(60,214,170,"], ["#5b02a3", "#9a66e0"], ["#9a179b", "#c04cc1"]];
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // A figure is in the page or, see `dashboard.js`, has an address. Unless `anyway`, it is drawn again only if it has changed.
  async function draw(place, anyway = true) {
    let text = place.dataset.source ? await figureOf(place) : document.querySelector(`script[data-figure="${place.id}"]`).textContent;
    if (!text || (place.text === text && !anyway)) return;
    place.text = text;
    if (dark.matches) for (const [from, to] of brighter) text = text.replaceAll(from, to);
    const { data, layout } = JSON.parse(text);
    const config = { displaylogo: false, displayModeBar: narrow() ? false : "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
    Plotly.react(place, data, { ...layout, template: theme(), uirevision: "kept" }, config);
    if (!place.dataset.drawn) sizes.observe(place);
    place.dataset.drawn = "yes";
  }

  // A chart follows the width of its place, which may change without the window: a scroll bar, a turned phone.
  const sizes = new ResizeObserver((changed) => {
    for (const { target } of changed) {
      const drawn = target._fullLayout;
      if (drawn && Math.abs(drawn.width - target.clientWidth) > 1 && target.clientWidth > 0) Plotly.Plots.resize(target);
    }
  });

  const places = () => [...document.querySelectorAll(".chart")];
  const soon = new IntersectionObserver((seen) => {
    for (const entry of seen) {
      if (entry.isIntersecting) {
        soon.unobserve(entry.target);
        draw(entry.target, false);
      }
    }
  }, { rootMargin: "600px" });
  const watch = () => places().forEach((place) => soon.observe(place));
  watch();
  const drawAll = () => places().filter((place) => !place.dataset.drawn).forEach((place) => { soon.unobserve(place); draw(place); });
  window.addEventListener("beforeprint", drawAll);
  if (location.hash === "#draw-all") drawAll();
  dark.addEventListener("change", () => {
    places().filter((place) => place.dataset.drawn).forEach((place) => draw(place));
  });

  // The table: a click on a heading sorts by it, a second one the other way round; what has no value stays last.
  const value = (row, column) => {
    const cell = row.cells[column];
    const number = cell.dataset.value;
    return number === undefined ? cell.textContent.trim().toLowerCase() : number === "" ? null : Number(number);
  };
  function sort(table) {
    const head = table.querySelector("thead [aria-sort]");
    if (!head) return;
    const up = head.getAttribute("aria-sort") === "ascending";
    const rows = [...table.tBodies[0].rows].map((row) => [value(row, head.cellIndex), row]);
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null)
      : (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }
  document.addEventListener("click", ({ target }) => {
    const head = target.closest("table.sortable thead th");
    if (!head) return;
    const turned = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", turned);
    sort(head.closest("table"));
  });

  // After a part of the page was replaced, see `dashboard.js`.
  globalThis.renew = () => {
    watch();
    document.querySelectorAll("table.sortable").forEach(sort);
  };
})();
