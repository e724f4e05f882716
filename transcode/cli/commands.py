"""All commands: where each is defined, and what the help of the whole says of it.

Help must not cost the import of every command, so it is told here in a line.
"""

from __future__ import annotations

__all__ = ["COMMANDS", "SECTIONS", "STAGES"]

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Convert": {
        "run": ("run", "Quantize, cast, merge LoRAs, rename, filter, re-shard."),
        "split": ("split", "An all-in-one file into a folder, a model in each subfolder."),
        "merge": ("split", "The models of such a folder into one file."),
        "nunchaku": ("nunchaku", "SVDQuant checkpoints for nunchaku: convert, merge, split."),
        "join": ("join", "The parts of a run that several machines did into one output."),
        "recipe": ("recipe", "Print the recipe of a command line, or of how a file was made."),
    },
    "Look at files": {
        "inspect": ("inspect", "Tensors, dtypes, shapes, sizes, shards, metadata, family."),
        "doctor": ("doctor", "Which programs can load a file, which cannot, why, what to do."),
        "verify": ("verify", "Compare an output, byte by byte, with what its source becomes."),
        "meta": ("meta", "Read and edit metadata in place, in milliseconds."),
    },
    "What there is": {
        "schemes": ("listing", "Quantized formats: options, values, who takes them."),
        "conventions": ("listing", "Programs that checkpoints are written for."),
        "families": ("listing", "Models that are known, and how they are spelled."),
    },
    "More": {
        "help": ("help", "Help of a command: transcode help run."),
        "completion": ("completion", "Print the shell's completion script."),
    },
}
"""Heading -> name -> (module, one line of help)."""

STAGES: dict[str, tuple[str, str]] = {
    "open": ("pipe", "Begin a pipe: open a checkpoint."),
    "component": ("pipe", "Take one model of an all-in-one file, in a pipe."),
    "keep": ("pipe", "Keep the tensors that match, in a pipe."),
    "drop": ("pipe", "Drop the tensors that match, in a pipe."),
    "dequantize": ("pipe", "Decode quantized tensors, in a pipe."),
    "rename": ("pipe", "Rename tensors, in a pipe."),
    "convert": ("pipe", "Spell an architecture as another program does, in a pipe."),
    "lora": ("pipe", "Merge LoRAs, in a pipe."),
    "cast": ("pipe", "Cast float tensors, in a pipe."),
    "quantize": ("pipe", "Quantize, in a pipe."),
    "requantize": ("pipe", "Encode what was changed as it was, in a pipe."),
    "calibrate": ("pipe", "Add the scales of inputs to nvfp4 tensors, in a pipe."),
    "write": ("pipe", "End a pipe: write the checkpoint."),
}
"""The stages of a pipe, likewise."""

COMMANDS: dict[str, tuple[str, str]] = {
    **{name: entry for section in SECTIONS.values() for name, entry in section.items()},
    **STAGES,
}
