"""``transcode meta embed``."""

from __future__ import annotations

from typing import Any

import click

from .flags import command
from .meta_common import edit_options, editing, show_edits

__all__ = ["embed"]


def _flag_of(word: str) -> str | None:
    """The option that a word stands for which is no FILE."""
    if word.endswith(".json") and not word.endswith(".index.json"):
        return "--config"
    return "--config-yaml" if word.endswith((".yaml", ".yml")) else None


@command(
    epilog="\b\nExamples:\n  transcode meta embed model.safetensors config.json\n"
    "  transcode meta embed model.safetensors --model-path Qwen/Qwen-Image\n"
)
@click.argument("words", metavar="FILE... [CONFIG]", nargs=-1, required=True)
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
    words: tuple[str, ...],
    model_path: str | None,
    recipe: str | None,
    config_file: str | None,
    comfy_file: str | None,
    model_class: str | None,
    allow_missing: bool,
    **settings: Any,
) -> None:
    """Embed config.json, so that nunchaku and its ComfyUI nodes can load the file.

    CONFIG is config.json itself, as --config is, or a YAML file, as --config-yaml is. Looked for in this
    order: CONFIG; --model-path; pipeline.path, else pipeline.name of --config-yaml; as a
    folder, else in the local hub cache. In a folder: transformer/config.json, config.json,
    transformer.config.json. Without one, the file stays as it was and the exit code is 2.
    """
    from ..meta import embed as embed_into

    files = [word for word in words if _flag_of(word) is None]
    named = {"--config": config_file, "--config-yaml": recipe}
    for word in words:
        if (flag := _flag_of(word)) is not None:
            if named[flag] is not None:
                raise click.UsageError(f"{word} is a second {flag}, beside {named[flag]}; give one")
            named[flag] = word
    config_file, recipe = named.values()
    if not files:
        raise click.UsageError(f"no FILE to embed it in; type: transcode meta embed FILE {words[0]}")
    if not (config_file or model_path or recipe):
        raise click.UsageError(
            "nothing says where config.json is; type it behind FILE, or its folder as --model-path DIR"
        )
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
