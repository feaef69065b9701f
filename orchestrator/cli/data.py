"""data import, synth, check, stats, preview, pack."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click

from orchestrator.base.errors import Exit, OrchestratorError
from orchestrator.base.hints import command_line
from orchestrator.cli.declared import argument, command, option
from orchestrator.cli.options import OUT_FOLDER, OUT_PICTURE, AsJson, FloatRange, OutPath
from trainer.formatting import counted

if TYPE_CHECKING:
    from trainer.data import Splits, Tracklet

Folder = Annotated[Path, argument()]
DataName = Annotated[
    str | None, option("--name", metavar="KEY", help="Name of the data set, as data.name.  [default: recognised]")
]


@click.group()
def data() -> None:
    """Import, generate, check, look at and pack data sets."""


@command(example="reidsearch data synth data/mini-mars --size demo", group=data)
def synth(
    folder: Annotated[Path, argument(type=OutPath(path_type=Path))],
    size: Annotated[Literal["tiny", "demo", "full"], option("--size", help="Number of frames.")] = "demo",
    seed: Annotated[int, option("--seed", type=click.IntRange(min=0), help="Same seed, same bytes.")] = 0,
) -> int:
    """Write a synthetic data set in the layout of MARS."""
    from orchestrator.base.progress import step_progress
    from trainer.data.synthetic.dataset import write_synthetic

    with step_progress() as progress:
        made = write_synthetic(
            folder,
            size=size,
            seed=seed,
            progress=lambda done, total: progress(f"drawing {folder.name}", done, total),
        )
    click.echo(
        f"{folder}: mini-MARS {size}, seed {seed}: {made.identities} identities, {made.tracklets} tracklets, "
        f"{made.frames} frames, {made.bytes / 1e6:.1f} MB, {made.seconds:.1f} s; "
        "SYNTHETIC, never to be compared with published results"
    )
    click.echo(f"next: {command_line('data', 'check', folder)}", err=True)
    return Exit.OK


def _levels(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """What the folders of a source name."""
    from trainer.data.importing.folders import read_levels
    from trainer.errors import DataError

    try:
        if value is not None:
            read_levels(value)
    except DataError as error:
        raise click.BadParameter(str(error)) from error
    return value


@command(example="reidsearch data import cameras/ data/own --margin 0.05", group=data, name="import")
def import_(
    source: Annotated[Path, argument()],
    out: Annotated[Path, argument(type=OUT_FOLDER)],
    folders: Annotated[
        str | None,
        option(
            "--folders",
            callback=_levels,
            metavar="LEVELS",
            help="As identity/camera/tracklet, in any order.  [default: by depth]",
        ),
    ] = None,
    margin: Annotated[
        float, option("--margin", type=FloatRange(0, 1), help="Added on each side of a box, as a share of its size.")
    ] = 0.0,
    quality: Annotated[int, option("--quality", type=click.IntRange(1, 100), help="Of crops, as JPEG files.")] = 95,
) -> int:
    """Write tracklets in folders, or a tracker's boxes and videos, as a data set; a second run goes on."""
    from orchestrator.base.progress import step_progress
    from trainer.data.importing import ImportOptions, import_data

    options = ImportOptions(folders=folders, margin=margin, quality=quality)
    with step_progress() as progress:
        made = import_data(source, out, options, progress=lambda done, total: progress("writing frames", done, total))
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    cameras = counted(made.cameras, "camera", "cameras") if made.cameras else "cameras not known"
    click.echo(
        f"{out}: {counted(made.identities, 'identity', 'identities')}, {cameras}, "
        f"{counted(made.tracklets, 'tracklet', 'tracklets')}, {counted(made.frames, 'frame', 'frames')}, "
        f"{made.written:,} of them written now, {made.seconds:.1f} s"
    )
    click.echo(f"next: {command_line('data', 'check', out)}", err=True)
    return Exit.OK


@command(example="reidsearch data check /data/mars", group=data)
def check(
    folder: Folder,
    name: DataName = None,
    all_frames: Annotated[bool, option("--all", help="Decode every frame, not 500 of them.")] = False,
    any_counts: Annotated[bool, option("--any-counts", help="Accept other counts than the published ones.")] = False,
    manifest: Annotated[Path | None, option("--manifest", help="Manifest.  [default: in DIR]")] = None,
    as_json: AsJson = False,
) -> int:
    """Check lists, counts and frames of a data set, and compare it with an earlier check."""
    import json

    from orchestrator.base.progress import step_progress
    from orchestrator.show.data_check import check_document, check_text, problem_text
    from trainer.data.checks import check_data

    with step_progress() as progress:
        found = check_data(
            folder, name=name, all_frames=all_frames, any_counts=any_counts, manifest=manifest, progress=progress
        )
    click.echo(json.dumps(check_document(found), indent=2) if as_json else check_text(found))
    if not found.problem_count:
        return Exit.OK
    if not as_json:
        click.echo(problem_text(found), err=True)
    return Exit.INVALID


@command(example="reidsearch data stats /data/mars", group=data)
def stats(folder: Folder, name: DataName = None, as_json: AsJson = False) -> int:
    """Show how many identities, tracklets, cameras and frames there are, and how they are distributed."""
    import json

    from orchestrator.show.data_check import statistics_document, statistics_text
    from trainer.data.folder import find_data
    from trainer.data.statistics import statistics

    found = find_data(folder, name)
    numbers = statistics(found.read(), found.data_set.protocol)
    click.echo(
        json.dumps(statistics_document(found, numbers), indent=2) if as_json else statistics_text(found, numbers)
    )
    return Exit.OK


@command(example="reidsearch data preview data/mini-mars --out preview.png", group=data)
def preview(
    folder: Folder,
    name: DataName = None,
    out: Annotated[Path, option("--out", type=OUT_PICTURE, help="Picture.")] = Path("preview.png"),
    count: Annotated[int, option("--count", type=click.IntRange(1, 100), help="How many tracklets.")] = 12,
    seed: Annotated[int, option("--seed", type=click.IntRange(min=0), help="Same seed, same tracklets.")] = 0,
    images: Annotated[bool, option("--images", help="Write a picture of real people.")] = False,
) -> int:
    """Draw a sheet of some tracklets, a row each."""
    from trainer.data.folder import find_data
    from trainer.files import check_apart

    check_apart(out, folder)
    found = find_data(folder, name)
    from trainer.plots.sheets import contact_sheet  # imports torch

    if not (found.synthetic or images):
        raise OrchestratorError(f"{folder}: shows real people; pictures of them are written with --images only")
    tracklets = _drawn(found.read(), count, seed)
    count_of = counted(len(tracklets), "tracklet", "tracklets")
    title = f"{found.data_set.title}: {count_of}, seed {seed}"
    contact_sheet(tracklets, out, title=title, synthetic=found.synthetic)
    click.echo(f"{out}: {count_of}" + ("  SYNTHETIC" if found.synthetic else ""))
    return Exit.OK


def _drawn(splits: Splits, count: int, seed: int) -> list[Tracklet]:
    """Some of all tracklets, by identity and camera."""
    everything = [tracklet for part in splits for tracklet in part]
    some = random.Random(seed).sample(everything, min(count, len(everything)))
    return sorted(some, key=lambda tracklet: (tracklet.identity, tracklet.camera))


def _pixels(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Height and width."""
    if value is None:
        return None
    size = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", value)
    if size is None:
        raise click.BadParameter(f"{value!r} is not a height and a width, as 256x128")
    return int(size[1]), int(size[2])


@command(example="reidsearch data pack /data/mars /scratch/mars-packed --size 256x128", group=data)
def pack(
    folder: Folder,
    out: Annotated[Path, argument(type=OutPath(path_type=Path))],
    name: DataName = None,
    size: Annotated[
        tuple[int, int] | None,
        option(
            "--size",
            callback=_pixels,
            metavar="HxW",
            help="Decode and resize now, as 256x128.  [default: keep files as they are]",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        option("--jobs", type=click.IntRange(1, 256), help="Processes that decode and write.  [default: one per core]"),
    ] = None,
) -> int:
    """Write all frames of a data set into a few large files, which are faster to read."""
    from orchestrator.base.progress import step_progress
    from trainer.data.folder import find_data
    from trainer.data.packing import PackPlan, pack_data_set

    found = find_data(folder, name)

    def say(plan: PackPlan) -> None:
        form = "image files" if size is None else "pixels"
        room = f"{plan.bytes / 1e6:,.1f} MB of {form}, {plan.free / 1e6:,.0f} MB free"
        click.echo(f"{out}: {plan.frames:,} frames, {room}", err=True)

    with step_progress() as progress:
        made = pack_data_set(
            found.name,
            folder,
            out,
            size=size,
            jobs=jobs,
            planned=say,
            progress=lambda done, total: progress("packing frames", done, total),
        )
    click.echo(
        f"{out}: {found.data_set.title}, {made.tracklets:,} tracklets, {made.frames:,} frames, "
        f"{made.bytes / 1e6:,.1f} MB (files: {made.files}), {made.seconds:.1f} s"
        + (f"; damaged frames: {made.damaged}" if made.damaged else "")
        + ("  SYNTHETIC" if found.synthetic else "")
    )
    click.echo(f"next: {command_line('data', 'check', out)}", err=True)
    return Exit.OK
