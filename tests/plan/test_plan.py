"""Plans: what they say of themselves."""

from __future__ import annotations

import torch


def test_json_of_a_plan_is_plain(save, tmp_path):
    import json

    import transcode as tc

    flow = tc.open(save({"ä.weight": torch.ones(4, 4), "s": torch.tensor(1)})) | tc.quantize(
        "int8", targets=["ä"]
    )
    plan = flow.plan(tc.write(tmp_path / "o", max_tensors=2))
    told = json.loads(json.dumps(plan.to_json()))
    assert told["source"] == str(tmp_path / "model.safetensors")
    assert {t["name"] for t in told["tensors"]} == {"ä.weight", "s"}
    assert told["bytes_in"] == 64 + 8
