"""``transcode meta embed``."""

from __future__ import annotations

from typing import Any

import click

from .flags import command
from .meta_common import edit_options, editing, show_edits

__all__ = ["embed"]


@command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--model-path", metavar="DIR", help="Folder of the model, or its name on the hub, if cached here."
)
@click.option(
    "--config-yaml", "recipe", metavar="YAML", help="Configuration whose pipeline.path or .name says it."
)
@click.option("--config", "config_file", metavar="FILE", help="The config.json itself.")
@click.option(
    "--comfy-config", "comfy_file", metavar="FILE", help="comfy_config.json, if it is not to be derived."
)
@click.option("--model-class", metavar="NAME", help="nunchaku's class, if config.json does not tell.")
@click.option("--allow-missing", is_flag=True, help="Exit with 0 when there is no config.json.")
@edit_options
def embed(
    files: tuple[str, ...],
    model_path: str | None,
    recipe: str | None,
    config_file: str | None,
    comfy_file: str | None,
    model_class: str | None,
    allow_missing: bool,
    **settings: Any,
) -> None:
    """Embed config.json, so that nunchaku and its ComfyUI nodes can load the file.

    Looked for in this order: --config; --model-path; pipeline.path, else pipeline.name of --config-yaml; as a
    folder, else in the local hub cache. In a folder: transformer/config.json, config.json,
    transformer.config.json. Without one, the file stays as it was and the exit code is 2.
    """
    from ..meta import embed as embed_into

    if not (config_file or model_path or recipe):
        raise click.UsageError("say where config.json is: --model-path, --config-yaml or --config")
    with editing(settings) as options:
        done = embed_into(
            files,
            config=config_file,
            model_path=model_path,
            config_yaml=recipe,
            comfy_config=comfy_file,
            model_class=model_class,
            allow_missing=allow_missing,
            **options,
        )
    show_edits(done, settings)
