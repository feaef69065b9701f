"""Options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import completing

search = click.argument("name", shell_complete=completing.search_names)
search_or_trial = click.argument("name", metavar="NAME[/TRIAL]", shell_complete=completing.search_or_trial_names)
searches = click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=completing.search_names)
space_file = click.argument("file", shell_complete=completing.space_names)
storage = click.option(
    "--storage",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Folder that holds searches.",
)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    shell_complete=completing.setting_paths,
    help="Change any setting; may be repeated.",
)
concurrent = click.option("--concurrent", type=click.IntRange(min=1), help="Trials at once.  [default: all that fit]")
gpus_per_trial = click.option(
    "--gpus-per-trial", type=click.FloatRange(min=0), help="GPUs of one trial; 0.5 lets two share one."
)
tracking_uri = click.option(
    "--tracking-uri", metavar="URI", help="Where MLflow keeps runs.  [default: STORAGE/mlflow.db]"
)
address = click.option(
    "--address", metavar="ADDRESS", help="Ray cluster to join.  [default: start one on this machine]"
)
hang_after = click.option(
    "--hang-after", type=click.FloatRange(min=1), help="Seconds without a step that mean a hang.  [default: 1800]"
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
