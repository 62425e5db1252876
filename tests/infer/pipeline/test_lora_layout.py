"""LoRA inputs as a graph takes them."""

from __future__ import annotations

import numpy as np
from atelier_contracts import names
from atelier_infer.pipeline.lora_layout import LayerWeights, LoraLayout

GROUPS = {"attention": {"to_q": (4, 6, 1), "to_k": (5, 6, 1)}, "convolution": {"conv1": (2, 3, 3)}}


def layer(rank: int, inner: int, outer: int) -> LayerWeights:
    draw = np.random.default_rng(rank)
    return LayerWeights(draw.random((rank, inner), np.float32), draw.random((outer, rank), np.float32), 0.5)


def test_a_used_group_has_a_higher_rank_than_an_unused_one() -> None:
    """The graph skips the others, so an adapter of rank 1 would be skipped where 1 is the rank of no adapter."""
    layout = LoraLayout(GROUPS)
    packed = layout.pack({"to_q": layer(1, 4, 6), "conv1": layer(1, 18, 3)})
    assert {group: weights.rank for group, weights in packed.items()} == {"attention": 1, "convolution": 2}
    assert not packed["convolution"].a[:, 1].any()
    assert packed["convolution"].a[:, 0].all()
    none = layout.arrays([])
    for group in GROUPS:
        assert none[names.lora_inputs(group).a].shape[1] == names.UNUSED_RANK.get(group, 0) < packed[group].rank
        assert layout.uniform(1)[group].rank == packed[group].rank


def test_inputs_by_layer_are_views_of_those_by_group() -> None:
    whole, by_layer = LoraLayout(GROUPS), LoraLayout(GROUPS, by_layer=True)
    weights = {"to_q": layer(2, 4, 6), "to_k": layer(3, 5, 6), "conv1": layer(2, 18, 3)}
    part = by_layer.pack(weights)
    views, packed = by_layer.arrays([part]), whole.arrays([part])
    assert {name: view.shape[0] for name, view in views.items()} == by_layer.rows
    for group, layers in GROUPS.items():
        for half, wanted in enumerate(names.lora_inputs(group)[:2]):
            own = [views[names.layer_inputs(group, name)[half]] for name in layers]
            np.testing.assert_array_equal(np.concatenate(own), packed[wanted])
            assert all(np.shares_memory(view, packed[wanted]) and view.flags.c_contiguous for view in own)
    assert by_layer.scales([part], [{0: 1.0}]).keys() == whole.scales([part], [{0: 1.0}]).keys()
