"""embed, match: a network that `export` wrote, used from its folder alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Literal

import click

from orchestrator.base.errors import Exit
from orchestrator.cli.declared import argument, command, option
from orchestrator.cli.options import OUT_FILE, OUT_PICTURE, AsJson
from trainer.formatting import counted

Model = Annotated[Path, argument(metavar="MODEL")]
RuntimeOption = Annotated[Literal["torch", "onnx"], option("--runtime", help="What computes the network.")]


@command(example="reidsearch embed exported /data/my-tracklets --out embeddings.parquet")
def embed(
    model: Model,
    source: Annotated[Path, argument()],
    out: Annotated[Path, option("--out", type=OUT_FILE, help="File to write: .parquet or .npz.")],
    runtime: RuntimeOption = "torch",
) -> int:
    """Embed all tracklets of SOURCE with the network in the folder MODEL, which `export` wrote.

    SOURCE is a data set or a folder of tracklets: identity/camera/tracklet, identity/tracklet or tracklet.
    """
    from orchestrator.base.progress import step_progress
    from trainer import prepare_process
    from trainer.exported import open_exported, write_embeddings
    from trainer.files import check_apart

    check_apart(out, model, source)
    prepare_process()
    exported, began = open_exported(model, runtime), time.monotonic()
    with step_progress() as progress:
        count, dimension = write_embeddings(exported, source, out, progress=progress)
    rate = count / (time.monotonic() - began)
    click.echo(
        f"{out}: embeddings of {counted(count, 'tracklet', 'tracklets')}, {dimension} numbers each; "
        f"{rate:.3g} tracklets/s"
    )
    return Exit.OK


@command(example="reidsearch match exported queries /data/my-tracklets --out match.json --sheet match.png")
def match(
    model: Model,
    query: Annotated[Path, argument()],
    gallery: Annotated[Path, argument()],
    top: Annotated[int, option("--top", type=click.IntRange(min=1, max=1000), help="Tracklets per query.")] = 10,
    out: Annotated[Path | None, option("--out", type=OUT_FILE, help="Write the ranked lists as JSON.")] = None,
    sheet: Annotated[Path | None, option("--sheet", type=OUT_PICTURE, help="Draw them, with people, as a PNG.")] = None,
    runtime: RuntimeOption = "torch",
    as_json: AsJson = False,
) -> int:
    """Find the tracklets of QUERY among those of GALLERY with the network in the folder MODEL.

    Both are data sets or folders, as for `embed`. Where MODEL holds a threshold, each tracklet found is marked as the
    same identity or not.
    """
    from orchestrator.base.progress import step_progress
    from trainer import prepare_process
    from trainer.exported import draw_matches, match_document, open_exported, shows_drawings, write_matches
    from trainer.exported import match as matches_of
    from trainer.files import check_apart

    for written in (out, sheet):
        if written is not None:
            check_apart(written, model, query, gallery)
    prepare_process()
    exported = open_exported(model, runtime)
    with step_progress() as progress:
        matches = matches_of(exported, query, gallery, top=top, progress=progress)
    if out is not None:
        write_matches(exported, matches, out)
    if sheet is not None:
        draw_matches(matches, sheet, synthetic=shows_drawings(query, gallery))
    if as_json:
        click.echo(json.dumps(match_document(exported, matches)))
        return Exit.OK
    words = {None: "", True: "  same", False: "  not"}
    for each in matches:
        click.echo(each.query.name)
        for one in each.found:
            whom = f"  {one.tracklet.identity}" if one.tracklet.identity else ""
            click.echo(f"  {one.rank:>3}  {one.distance:.4f}{words[one.same]}  {one.tracklet.name}{whom}")
    return Exit.OK
