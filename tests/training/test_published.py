"""The published models, against open_clip's own, on random weights in files of their format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fetalclip_edge.preprocess import Preprocessor
from training.models.checkpoints import WeightsError
from training.models.published import (
    PUBLISHED,
    PublishedModel,
    load_fetalclip,
    load_mobile_fetalclip,
)

import open_clip  # isort: skip  (after training.models, which makes it importable)

FETALCLIP: dict[str, Any] = {  # FetalCLIP_config.json, as published
    "embed_dim": 768,
    "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
    "text_cfg": {
        "context_length": 117,
        "vocab_size": 49408,
        "width": 768,
        "heads": 12,
        "layers": 12,
    },
}
MOBILE: dict[str, Any] = open_clip.get_model_config("MobileCLIP2-S0") | {}
MOBILE["text_cfg"] = MOBILE["text_cfg"] | {"context_length": 117}
MOBILE.pop("custom_text")
CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SENTENCES = [
    "a fetal head.",
    "the four-chamber view of the fetal heart at 22 weeks and 3 days of gestation, " * 7,
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def names_and_shapes(layout: type[Any], config: dict[str, Any]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(layout(**config).state_dict())


def random_state(layout: type[Any], config: dict[str, Any]) -> dict[str, Tensor]:
    """Random weights: vectors all different, matrices of one shape all the same one.

    So a file of 427 M parameters takes 160 MB, and a tensor in a wrong place is still seen.
    """
    random = torch.Generator().manual_seed(0)
    matrices: dict[torch.Size, Tensor] = {}
    state = {}
    for name, tensor in names_and_shapes(layout, config).items():
        if not tensor.is_floating_point():
            state[name] = torch.tensor(7)
        elif tensor.ndim < 2 or tensor.shape[1:].numel() == 1:
            # Scales and variances about one, biases and means about zero.
            centre = 1 if re.search(r"(weight|gamma|running_var)$", name) else 0
            state[name] = (centre + torch.randn(tensor.shape, generator=random) / 10).half()
        elif tensor.shape in matrices:
            state[name] = matrices[tensor.shape]
        else:
            # As large as keeps the size of what it multiplies, before GELU.
            spread = 1.4 * tensor.shape[1:].numel() ** -0.5
            matrix = torch.randn(tensor.shape, generator=random) * spread
            matrices[tensor.shape] = state[name] = matrix.half()
    state["logit_scale"] = torch.tensor(3.5, dtype=torch.float16)
    return state


def hollow_state(layout: type[Any], config: dict[str, Any]) -> dict[str, Tensor]:
    """Every name and shape, and next to no bytes: all entries of a tensor are the same one."""
    shapes = names_and_shapes(layout, config)
    return {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in shapes.items()}


def write(folder: Path, content: object) -> Path:
    path = folder / "weights.pt"
    torch.save(content, path)
    return path


def frame() -> NDArray[np.uint8]:
    """A wide frame, smooth and grainy at once, as ultrasound is."""
    rows, columns = np.mgrid[0:300, 0:420]
    grain = np.random.default_rng(0).normal(0, 20, (300, 420))
    wave = 110 + 80 * np.sin(rows / 23) * np.cos(columns / 31) + grain
    return np.asarray(wave.clip(0, 255), np.uint8)


def padded_image() -> Image.Image:
    padded = np.zeros((420, 420), np.uint8)
    padded[60:360] = frame()
    return Image.fromarray(padded)


def levels(size: int) -> Tensor:
    resized = padded_image().resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized, np.float32)[None, None])


def reference_embeddings(
    reference: Any, size: int, statistics: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[Tensor, Tensor]:
    """Image and sentences through open_clip alone: its transform, its tokenizer, its towers."""
    mean, std = statistics
    transform = open_clip.image_transform(size, is_train=False, mean=mean, std=std)
    tokens = open_clip.SimpleTokenizer(context_length=117)(SENTENCES)
    with torch.inference_mode():
        return (
            reference.encode_image(transform(padded_image())[None], normalize=True),
            reference.encode_text(tokens, normalize=True),
        )


def assert_follows(model: PublishedModel, size: int, expected: tuple[Tensor, Tensor]) -> None:
    image, sentences = expected
    with torch.inference_mode():
        torch.testing.assert_close(model.image(levels(size)), image, rtol=0, atol=2e-5)
        torch.testing.assert_close(model.text(SENTENCES), sentences, rtol=0, atol=2e-5)
        # Not an equality of constants: other inputs have other embeddings.
        assert float((model.image(255 - levels(size)) * image).sum()) < 0.95
    assert float((sentences[0] * sentences[1]).sum()) < 0.95


@pytest.fixture(scope="module")
def mobile_state() -> dict[str, Tensor]:
    return random_state(open_clip.CustomTextCLIP, MOBILE)


@pytest.fixture(scope="module")
def mobile_reference(mobile_state: dict[str, Tensor]) -> Any:
    reference = open_clip.CustomTextCLIP(**MOBILE)
    reference.load_state_dict(mobile_state)
    return reference.eval()


def test_fetalclip_has_the_papers_size() -> None:
    state = names_and_shapes(open_clip.CLIP, FETALCLIP)
    assert sum(tensor.numel() for tensor in state.values()) == 427_647_233
    assert sum(t.numel() for n, t in state.items() if n.startswith("visual.")) == 303_966_208
    assert len(state) == 446
    assert state["positional_embedding"].shape == (117, 768)
    assert state["visual.positional_embedding"].shape == (257, 1024)
    assert state["visual.transformer.resblocks.23.attn.in_proj_weight"].shape == (3072, 1024)
    assert state["token_embedding.weight"].shape == (49408, 768)


def test_fetalclip_gives_what_open_clip_gives(tmp_path: Path) -> None:
    state = random_state(open_clip.CLIP, FETALCLIP)
    small = open_clip.CLIP(
        embed_dim=8,
        vision_cfg={"layers": 1, "width": 64},
        text_cfg={"context_length": 117, "width": 8, "heads": 1, "layers": 1},
    )
    model = load_fetalclip(write(tmp_path, state))
    with torch.device("meta"):
        reference = open_clip.CLIP(**FETALCLIP)
    single = {id(tensor): tensor.float() for tensor in state.values()}
    reference.load_state_dict({n: single[id(t)] for n, t in state.items()}, assign=True)
    reference.attn_mask = small.attn_mask
    expected = reference_embeddings(reference.eval(), 224, CLIP_STATISTICS)
    assert_follows(model, 224, expected)
    assert sum(p.numel() for p in model.parameters()) == 427_647_233
    assert sum(p.numel() for p in model.image.parameters()) == 303_966_208
    assert (model.name, model.embed_dim) == ("fetalclip", 768)
    assert model.preprocess.size == 224
    assert (model.preprocess.mean, model.preprocess.std) == CLIP_STATISTICS


def test_mobile_fetalclip_gives_what_open_clip_gives(
    tmp_path: Path, mobile_state: dict[str, Tensor], mobile_reference: Any
) -> None:
    model = load_mobile_fetalclip(write(tmp_path, mobile_state))
    expected = reference_embeddings(mobile_reference, 256, IMAGENET_STATISTICS)
    assert_follows(model, 256, expected)
    prepared = torch.from_numpy(Preprocessor(model.preprocess)(frame()))
    assert prepared.shape == (1, 3, 256, 256)
    assert float((prepared - levels(256)).abs().max()) <= 1  # Pillow rounds between the passes
    assert sum(p.numel() for p in model.parameters()) == 74_855_553
    assert sum(p.numel() for p in model.image.parameters()) == 11_406_976
    assert (model.name, model.embed_dim) == ("mobile-fetalclip", 512)
    assert model.preprocess.size == 256
    assert (model.preprocess.mean, model.preprocess.std) == IMAGENET_STATISTICS
    assert model.preprocess.interpolation == "bicubic"
    assert model.license == "CC-BY-NC-4.0"
    assert "2603.05421" in model.credit


def test_a_loaded_model_is_ready_to_use_and_free_of_its_file(
    tmp_path: Path, mobile_state: dict[str, Tensor]
) -> None:
    path = write(tmp_path, mobile_state | {"logit_scale": torch.tensor([5.5])})
    model = load_mobile_fetalclip(path)
    path.write_bytes(b"")  # would end the process if the weights still lay in the file
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert float(model.scale) == 100.0  # exp(5.5) is 245
    with torch.inference_mode():
        grey = levels(256)
        torch.testing.assert_close(
            model.image(grey), model.image(grey.expand(-1, 3, -1, -1)), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
def test_files_are_read_however_they_are_wrapped(
    tmp_path: Path, mobile_state: dict[str, Tensor], prefix: str, wrapper: str | None
) -> None:
    state = {prefix + name: tensor for name, tensor in mobile_state.items()}
    content: dict[str, Any] = state
    if wrapper is not None:  # open_clip's training checkpoint
        optimizer = {"state": {0: {"step": 3.0}}, "param_groups": [{"lr": 1e-4}]}
        content = {"epoch": 20, "name": "run", wrapper: state, "optimizer": optimizer}
    model = load_mobile_fetalclip(write(tmp_path, content))
    stem, deep = model.image.network.trunk.stem[0], model.image.network.trunk.stages[2].blocks[9]
    for loaded, name in (
        (stem.conv_kxk[0].bn.running_var, "visual.trunk.stem.0.conv_kxk.0.bn.running_var"),
        (deep.mlp.fc2.bias, "visual.trunk.stages.2.blocks.9.mlp.fc2.bias"),
        (model.text.transformer.ln_final.weight, "text.ln_final.weight"),
    ):
        assert torch.equal(loaded, mobile_state[name].float())


def in_apples_names(name: str) -> str:
    """What timm calls so, Apple's MCi0 calls otherwise; MobileFetalCLIP is trained with Apple's."""
    for pattern, apples in (
        (r"trunk\.stem", "trunk.patch_embed"),
        (r"trunk\.final_conv", "trunk.conv_exp"),
        (r"trunk\.head\.fc", "trunk.head"),
        (r"trunk\.stages\.3\.pos_emb\.pos_enc", "trunk.network.6.pe"),
        (r"trunk\.stages\.3\.blocks", "trunk.network.7"),
        (r"trunk\.stages\.([012])\.blocks", lambda m: f"trunk.network.{2 * int(m[1])}"),
        (r"trunk\.stages\.([123])\.downsample", lambda m: f"trunk.network.{2 * int(m[1]) - 1}"),
        (r"conv_kxk", "rbr_conv"),
        (r"conv_scale", "rbr_scale"),
        (r"\.identity\.", ".rbr_skip."),
        (r"large_conv", "lkb_origin"),
        (r"trunk(.*)\.mlp\.", r"trunk\1.convffn."),
        (r"(layer_scale(_[12])?)\.gamma", r"\1"),
        (r"(conv_exp\.se\.)fc1", r"\1reduce"),
        (r"(conv_exp\.se\.)fc2", r"\1expand"),
    ):
        name = re.sub(pattern, apples, name)
    return name


def test_mobile_fetalclip_may_have_the_names_of_apples_code(
    tmp_path: Path, mobile_state: dict[str, Tensor], mobile_reference: Any
) -> None:
    apples = {in_apples_names(name): tensor for name, tensor in mobile_state.items()}
    assert len(apples) == len(mobile_state)
    # Names from ml-mobileclip's mci.py, one of each kind.
    assert {
        "visual.trunk.patch_embed.0.rbr_conv.0.conv.weight",
        "visual.trunk.network.0.1.token_mixer.mixer.rbr_skip.weight",
        "visual.trunk.network.4.9.convffn.fc2.bias",
        "visual.trunk.network.5.proj.0.lkb_origin.conv.weight",
        "visual.trunk.network.6.pe.weight",
        "visual.trunk.network.7.1.layer_scale_2",
        "visual.trunk.conv_exp.se.expand.bias",
        "visual.trunk.head.weight",
    } <= set(apples)
    model = load_mobile_fetalclip(write(tmp_path, {"state_dict": apples}))
    expected, _ = reference_embeddings(mobile_reference, 256, IMAGENET_STATISTICS)
    with torch.inference_mode():
        torch.testing.assert_close(model.image(levels(256)), expected, rtol=0, atol=2e-5)


def test_a_file_that_does_not_fit_is_refused_with_all_that_differs(tmp_path: Path) -> None:
    state = hollow_state(open_clip.CLIP, FETALCLIP)
    for block in range(12):
        del state[f"transformer.resblocks.{block}.ln_2.bias"]
    state["visual.extra"] = torch.zeros(2)
    state["positional_embedding"] = torch.zeros(77, 768)
    state["visual.proj"] = torch.zeros(1024, 768, dtype=torch.int8)
    with pytest.raises(WeightsError) as refusal:
        load_fetalclip(write(tmp_path, {"state_dict": state}))
    first, missing, unexpected, shapes = str(refusal.value).splitlines()
    assert first == f"{tmp_path / 'weights.pt'} does not fit FetalCLIP."
    listed = ", ".join(f"transformer.resblocks.{block}.ln_2.bias" for block in range(10))
    assert missing == f"12 missing keys: {listed} and 2 more"
    assert unexpected == "1 unexpected keys: visual.extra"
    assert shapes == (
        "2 wrong shapes: positional_embedding is (77, 768), not (117, 768), "
        "visual.proj is (1024, 768) torch.int8, not (1024, 768)"
    )
    differences = refusal.value.differences
    assert differences is not None
    assert len(differences.missing) == 12
    assert differences.missing[-1] == "transformer.resblocks.11.ln_2.bias"
    assert differences.unexpected == ("visual.extra",)


def test_the_other_models_file_is_recognised(tmp_path: Path) -> None:
    fetalclip = write(tmp_path, hollow_state(open_clip.CLIP, FETALCLIP))
    with pytest.raises(
        WeightsError,
        match="does not fit MobileFetalCLIP, it is a file of FetalCLIP: read it with "
        r"load_fetalclip\.\n933 missing keys: (.|\n)*445 unexpected keys",
    ):
        load_mobile_fetalclip(fetalclip)
    apples = {
        "module." + in_apples_names(name): tensor
        for name, tensor in hollow_state(open_clip.CustomTextCLIP, MOBILE).items()
    }
    with pytest.raises(WeightsError, match="it is a file of MobileFetalCLIP: read it with load_mo"):
        load_fetalclip(write(tmp_path, apples))


def test_a_mask_is_taken_only_if_it_is_the_models_own(tmp_path: Path) -> None:
    state = hollow_state(open_clip.CLIP, FETALCLIP)
    causal = torch.full((117, 117), float("-inf")).triu(1)
    # A wrong shape beside it, so that the mask alone decides what is unexpected.
    state["logit_scale"] = torch.zeros(2)
    with pytest.raises(WeightsError) as refusal:
        load_fetalclip(write(tmp_path, state | {"attn_mask": causal}))
    assert "unexpected" not in str(refusal.value)
    with pytest.raises(WeightsError, match="1 unexpected keys: attn_mask"):
        load_fetalclip(write(tmp_path, state | {"attn_mask": torch.zeros(117, 117)}))
    mobile = hollow_state(open_clip.CustomTextCLIP, MOBILE)
    with pytest.raises(WeightsError, match=r"1 unexpected keys: text\.attn_mask"):
        load_mobile_fetalclip(write(tmp_path, mobile | {"text.attn_mask": causal}))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("load", PUBLISHED.values(), ids=PUBLISHED)
def test_no_code_in_a_file_is_run(load: Any, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = write(tmp_path, {"state_dict": {"logit_scale": torch.ones(())}, "args": Trap(sprung)})
    with pytest.raises(WeightsError, match=r"holds more than tensors(.|\n)*Nothing was run"):
        load(path)
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists()  # the trap does work


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"logit_scale": torch.ones(100)})
    whole = path.read_bytes()
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="is truncated, or not a file that torch.save wrote"):
            load_fetalclip(path)
    path.write_bytes(whole.replace(b"FloatStorage", b"FloatXtorage"))
    with pytest.raises(WeightsError, match=r"weights\.pt"):
        load_fetalclip(path)
    with pytest.raises(WeightsError, match="is a folder; name the file"):
        load_fetalclip(tmp_path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"state_dict": {}}, "holds no state dict, but an empty dict"),
        ([torch.ones(2)], "holds no state dict, but a list"),
        ({"epoch": 3, "lr": 1e-4}, "not tensors are 'epoch', 'lr'"),
    ],
)
def test_files_without_a_state_dict_are_refused(tmp_path: Path, content: object, what: str) -> None:
    with pytest.raises(WeightsError, match=what):
        load_fetalclip(write(tmp_path, content))


def test_a_missing_file_is_named_with_the_place_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="no file of weights at .*a.pt; FetalCLIP's authors publish Fetal"
    ):
        load_fetalclip(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match="huggingface.co/numansaeed/MobileFetalCLIP"):
        load_mobile_fetalclip(str(tmp_path / "a.pt"))


def test_the_registry_names_both_models() -> None:
    assert list(PUBLISHED) == ["fetalclip", "mobile-fetalclip"]
    assert list(PUBLISHED.values()) == [load_fetalclip, load_mobile_fetalclip]
