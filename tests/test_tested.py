"""Every module has its test file: for ``transcode/a/b.py`` it is ``tests/a/test_b.py``, or one named here."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "transcode"

ELSEWHERE = {
    # what stands in a table is run through the laws of the table
    "codecs/*": "laws/test_codecs.py",
    "schemes/svdquant": "stages/nunchaku/test_nunchaku.py",
    "schemes/smoothed": "consumers/config/test_nunchaku_lite.py",
    "containers/container": "laws/test_containers.py",
    "containers/table": "laws/test_containers.py",
    "containers/checkpoint": "laws/test_containers.py",
    "containers/torch/container": "laws/test_containers.py",
    "containers/gguf/container": "containers/gguf/test_gguf.py",
    "containers/gguf/limits": "containers/gguf/test_header.py",
    "containers/gguf/swapped": "containers/gguf/test_gguf.py",
    "containers/gguf/types": "containers/gguf/test_gguf.py",
    "containers/gguf/writing": "containers/gguf/test_gguf.py",
    "containers/gguf/values": "containers/gguf/test_header.py",
    "core/typed": "containers/gguf/test_gguf.py",
    "numerics/ggml/*": "schemes/test_ggml.py",
    "stages/leaves": "stages/quantize/test_importance_structure.py",
    "stages/opening": "stages/test_quantized_sources.py",
    # what several share is tested where it is used: a class without its heirs computes nothing
    "core/codec": "laws/test_codecs.py",
    "core/scheme": "laws/test_schemes.py",
    "core/constraint": "laws/test_schemes.py",
    "core/expr": "plan/test_file.py",
    "core/quantized_source": "stages/test_quantized_sources.py",
    "core/source": "stages/test_quantized_sources.py",
    "schemes/base": "laws/test_schemes.py",
    "schemes/scaled": "schemes/test_fp8.py",
    "schemes/blocks": "schemes/test_mx.py",
    "schemes/packed": "schemes/test_int4.py",
    "schemes/ggml_blocks": "schemes/test_ggml.py",
    "schemes/ggml_nvfp4": "stages/quantize/test_recode_gguf.py",
    "execution/portions": "execution/test_sending.py",
    "stages/quantize/multiplier": "stages/quantize/test_recode_gguf.py",
    "schemes/text": "laws/test_schemes.py",
    "cli/job": "cli/test_nunchaku.py",
    "consumers/components": "cli/test_split.py",
    "consumers/pipeline_files": "consumers/test_pipelines.py",
    "stages/lora/assembled": "stages/lora/test_respell.py",
    "stages/lora/finite": "stages/lora/test_others.py",
    "stages/lora/joins": "stages/lora/test_others.py",
    "stages/lora/modules": "stages/lora/test_respell.py",
    "stages/lora/pairs": "stages/lora/test_respell.py",
    "stages/lora/portions": "stages/lora/test_others.py",
    "stages/lora/sizes": "stages/lora/test_respell.py",
    "stages/lora/written": "stages/lora/test_respell.py",
    "consumers/config/bitsandbytes": "schemes/test_bnb.py",
    "consumers/config/microscaling": "consumers/config/test_table.py",
    "io/remote/bytes": "io/remote/test_web.py",
    "io/remote/places": "io/remote/test_folder.py",
    "io/remote/store": "io/remote/test_patience.py",
    "io/remote/transport": "io/remote/test_web.py",
    "io/remote/target": "execution/test_sending.py",
    "io/named": "io/test_folder.py",
    "plan/transfer": "io/remote/test_web.py",
    # one thing to a user, whatever modules it has inside
    "recipe/*": "test_recipe.py",
    "plan/request": "test_recipe.py",
    "execution/figures": "execution/test_display.py",
    "execution/carry": "execution/test_write.py",
    "execution/keeping": "execution/test_resume.py",
    "execution/staged": "execution/test_resume.py",
    "execution/jobs": "execution/test_execute.py",
    "execution/report": "execution/test_execute.py",
    "execution/parting": "execution/test_parts.py",
    "execution/joining": "execution/test_parts.py",
    "cli/consuming": "execution/test_consuming.py",
    "cli/join": "execution/test_parts.py",
    "execution/staging": "execution/test_destination.py",
    "containers/discover": "containers/test_folders.py",
    "containers/modelsets": "containers/test_folders.py",
    "containers/ranks": "containers/test_folders.py",
    "containers/foreign": "containers/test_source.py",
    "containers/stored": "containers/test_source.py",
    "containers/compare": "cli/test_meta.py",
    "containers/deepcompressor/*": "containers/test_deepcompressor.py",
    "containers/joined": "containers/test_deepcompressor.py",
    "containers/torch/*": "containers/torch/test_pickle.py",
    "containers/safetensors/headertext": "containers/safetensors/test_header.py",
    "containers/safetensors/form": "containers/safetensors/test_edit.py",
    "containers/safetensors/splice": "containers/safetensors/test_edit.py",
    "containers/edit/undo": "containers/safetensors/test_undo.py",
    "containers/edit/*": "containers/safetensors/test_edit.py",
    "stages/quantize/importance/*": "stages/quantize/test_importance.py",
    "catalog/ggml_names": "stages/quantize/test_importance.py",
    "catalog/mixes": "stages/quantize/test_mix.py",
    "catalog/norms": "stages/quantize/test_importance.py",
    "numerics/deviation": "stages/quantize/test_importance.py",
    "stages/quantize/stage": "stages/quantize/test_quantize.py",
    "stages/lora/stage": "stages/lora/test_lora.py",
    "stages/nunchaku/*": "stages/nunchaku/test_nunchaku.py",
    "numerics/gpu/*": "numerics/test_gpu.py",
    "numerics/errors": "schemes/test_int8.py",
    "numerics/machine": "numerics/test_elf.py",
    "numerics/affine": "schemes/test_awq_w4a16.py",
    "numerics/tabled": "schemes/test_bnb.py",
    "numerics/affine_widths": "schemes/test_affine.py",
    "numerics/integer_scales": "schemes/test_int8.py",
    "numerics/grouped": "schemes/test_w4a8.py",
    "numerics/turning": "numerics/test_hadamard.py",
    "numerics/*": "numerics/test_jit.py",
    "core/extent": "execution/test_moves.py",
    "core/kinds": "core/test_option.py",
    "core/node": "core/test_option.py",
    "core/size": "core/test_option.py",
    "core/text": "core/test_shown.py",
    "io/names": "io/test_platforms.py",
    "plan/fates": "cli/test_show.py",
    "plan/options": "stages/test_options.py",
    "stages/names": "stages/test_options.py",
    "stages/table": "stages/test_options.py",
    "stages/lora/files": "stages/lora/test_lora.py",
    "schemes/meant": "test_meant.py",
    "schemes/rounding": "schemes/test_hqq.py",
    "meta/*": "meta/test_meta.py",
    # what is seen on a terminal
    "consumers/judged": "consumers/test_doctor.py",
    "consumers/taken": "consumers/test_doctor.py",
    "consumers/statement": "consumers/test_structure.py",
    "consumers/inspection": "cli/test_inspect.py",
    "consumers/examined": "consumers/test_doctor.py",
    "catalog/contents": "cli/test_listing.py",
    "catalog/programs": "cli/test_listing.py",
    "catalog/takers": "consumers/test_doctor.py",
    "cli/scheme_list": "cli/test_listing.py",
    "cli/complete": "cli/test_completion.py",
    "cli/shells": "cli/test_completion.py",
    "cli/doctor": "consumers/test_doctor.py",
    "cli/flags": "cli/test_options.py",
    "cli/groups": "cli/test_commands.py",
    "cli/instead": "cli/test_commands.py",
    "cli/show/*": "cli/test_show.py",
    "__main__": "cli/test_main.py",
    "cli/build": "cli/test_options.py",
    "cli/interrupt": "execution/test_destination.py",
    "cli/streams": "cli/test_main.py",
    "cli/say": "cli/test_hostile.py",
    "cli/epilog": "cli/test_help.py",
    "cli/meta_*": "cli/test_meta.py",
    # nothing in them runs by itself
    "errors": "cli/test_main.py",
    "core/types": "core/test_values.py",
}
"""Modules, or all others of a room: the file that tests them."""


def modules() -> list[str]:
    return [
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__init__.py"
    ]


def own(module: str) -> Path:
    room, _, name = module.rpartition("/")
    return TESTS / room / f"test_{name}.py"


def elsewhere(module: str) -> str | None:
    return next((key for key in ELSEWHERE if fnmatch(module, key)), None)


def test_every_module_has_its_test_file() -> None:
    untested = [module for module in modules() if not own(module).exists() and elsewhere(module) is None]
    assert untested == []
    assert [file for file in ELSEWHERE.values() if not (TESTS / file).exists()] == []


def test_what_is_tested_elsewhere_is_there() -> None:
    assert ELSEWHERE.keys() <= {key for key in ELSEWHERE for module in modules() if fnmatch(module, key)}
