"""Both spellings of the names of a UNet, as Stable Diffusion's authors and Diffusers have published them."""

import pytest

from transcode.stages.lora.unet import other_names

# Of Stable Diffusion 1.5 (two layers a block), as its authors and Diffusers publish them.
PAIRS = {
    "time_embed.0.weight": "time_embedding.linear_1.weight",
    "input_blocks.0.0.weight": "conv_in.weight",
    "input_blocks.1.0.in_layers.2.weight": "down_blocks.0.resnets.0.conv1.weight",
    "input_blocks.1.1.proj_in.weight": "down_blocks.0.attentions.0.proj_in.weight",
    "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
    "input_blocks.4.0.skip_connection.weight": "down_blocks.1.resnets.0.conv_shortcut.weight",
    "input_blocks.11.0.out_layers.3.bias": "down_blocks.3.resnets.1.conv2.bias",
    "middle_block.0.emb_layers.1.weight": "mid_block.resnets.0.time_emb_proj.weight",
    "middle_block.1.transformer_blocks.0.attn1.to_q.weight": (
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    ),
    "output_blocks.2.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
    "output_blocks.5.2.conv.weight": "up_blocks.1.upsamplers.0.conv.weight",
    "output_blocks.3.1.proj_out.weight": "up_blocks.1.attentions.0.proj_out.weight",
    "output_blocks.11.0.in_layers.0.weight": "up_blocks.3.resnets.2.norm1.weight",
    "out.2.bias": "conv_out.bias",
}


def test_pairs_of_names():
    to, back = other_names(PAIRS.keys()), other_names(PAIRS.values())
    for theirs, diffusers in PAIRS.items():
        assert to(theirs) == diffusers
        assert back(diffusers) == theirs


def test_names_of_no_unet():
    assert other_names(["model.layers.0.weight"]) is None
    to, back = other_names(PAIRS.keys()), other_names(PAIRS.values())
    assert to("first_stage_model.encoder.weight") is None
    assert back("first_stage_model.encoder.weight") is None


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_of_a_block_are_counted(layers):
    """Its downsampler stands behind the layers of a block."""
    theirs = [f"input_blocks.{n}.0.in_layers.0.weight" for n in range(1, layers + 1)]
    theirs += [f"input_blocks.{layers + 1}.0.op.weight", f"input_blocks.{layers + 2}.0.in_layers.0.weight"]
    diffusers = [f"down_blocks.0.resnets.{n}.norm1.weight" for n in range(layers)]
    diffusers += ["down_blocks.0.downsamplers.0.conv.weight", "down_blocks.1.resnets.0.norm1.weight"]
    to, back = other_names(theirs), other_names(diffusers)
    assert [to(name) for name in theirs] == diffusers
    assert [back(name) for name in diffusers] == theirs
