"""The moving average of weights, against the same recursion written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from training.averaging import WeightAverage
from training.models import ModelConfig, TextTower


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def change(model: nn.Module, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=rng))
            else:
                value.add_(3)


def test_the_average_is_the_exponential_one_with_a_short_memory_at_first() -> None:
    model = small_net()
    average = WeightAverage(model, decay=0.3)
    expected = {k: v.double().numpy().copy() for k, v in model.state_dict().items()}
    # 1/10, 2/11, 3/12, 4/13, then the decay itself: 5/14 is above 0.3.
    for step, kept in enumerate([1 / 10, 2 / 11, 3 / 12, 0.3, 0.3]):
        change(model, step)
        average.update(model)
        for name, value in model.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * value.double().numpy()
    for name, value in average.model.state_dict().items():
        if value.is_floating_point():
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-5, atol=1e-6)


def test_counters_are_copied_and_running_statistics_averaged() -> None:
    model = small_net()
    average = WeightAverage(model, decay=0.5)
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(1)))
    average.update(model)
    own, followed = average.model.state_dict(), model.state_dict()
    assert int(own["1.num_batches_tracked"]) == int(followed["1.num_batches_tracked"]) == 1
    torch.testing.assert_close(own["1.running_mean"], 0.9 * followed["1.running_mean"])
    torch.testing.assert_close(own["1.running_var"], 0.1 + 0.9 * followed["1.running_var"])


def test_the_followed_model_is_left_alone() -> None:
    model = small_net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    average = WeightAverage(model, decay=0.9)
    change(average.model, 2)
    average.update(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in average.model.parameters())


def test_the_attention_mask_of_the_text_tower_stays_free_of_nan() -> None:
    # torch's AveragedModel(use_buffers=True) makes -inf + (-inf - -inf) * w of it, which is NaN.
    torch.manual_seed(0)
    config = ModelConfig(embed_dim=8, text_context=24, text_width=16, text_heads=2, text_layers=1)
    model = TextTower(config)
    average = WeightAverage(model, decay=0.9)
    mask = model.transformer.attn_mask.clone()
    assert torch.isinf(mask).any()
    for _ in range(3):
        average.update(model)
    torch.testing.assert_close(average.model.transformer.attn_mask, mask, rtol=0, atol=0)
    assert torch.isfinite(average.model.eval()(["a fetal head."])).all()


def test_a_saved_average_goes_on_as_if_never_stopped() -> None:
    model = small_net()
    whole, first = WeightAverage(model, 0.9), WeightAverage(model, 0.9)
    for step in range(2):
        change(model, step)
        whole.update(model)
        first.update(model)
    second = WeightAverage(small_net(), 0.9)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    change(model, 7)
    whole.update(model)
    second.update(model)
    assert second.updates == whole.updates == 3
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


def test_an_average_of_another_model_is_refused() -> None:
    state = WeightAverage(small_net(), 0.9).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        WeightAverage(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), 0.9).load_state_dict(state)


def test_what_is_frozen_is_shared_and_not_saved() -> None:
    model = small_net()
    model[0].requires_grad_(False)
    average = WeightAverage(model, decay=0.5)
    assert average.model[0] is model[0]
    assert average.model[1] is not model[1]
    with torch.no_grad():
        model[1].weight.fill_(3.0)
    average.update(model)
    assert average.model.state_dict()["1.weight"].tolist() == pytest.approx([0.1 + 0.9 * 3] * 4)
    assert {name.split(".")[0] for name in average.state_dict()} == {"1", "updates"}
    again = WeightAverage(model, decay=0.5)
    again.load_state_dict(average.state_dict())
    assert torch.equal(again.model.state_dict()["1.weight"], average.model.state_dict()["1.weight"])
