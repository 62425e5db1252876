"""The tiny base model has the classes and sizes of its card, and its training resumes after an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from atelier_trainer.__main__ import main
from atelier_trainer.synthetic.scenes.captions import VOCABULARY
from atelier_trainer.synthetic.tiny_base.architecture import (
    TEXT_TOKENS,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
)
from atelier_trainer.synthetic.tiny_base.checkpoint import load_state, running_average, save_state
from atelier_trainer.synthetic.tiny_base.fit_decoder import average_of_vae
from atelier_trainer.synthetic.tiny_base.fit_vae import learning_rate_share
from diffusers import StableDiffusionPipeline
from transformers.models.clip.tokenization_clip import CLIPTokenizer

COMMAND = "base {out} --state_dir={state} --scenes=16 --vae_scenes=8 --vae_steps=2 --decoder_steps=1 --unet_steps={steps}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return build_tokenizer([" ".join(VOCABULARY)], tmp_path_factory.mktemp("tokenizer"))


def test_every_word_of_the_captions_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for word in VOCABULARY:
        assert len(tokenizer(word).input_ids) == 3, word  # start, the word, end


def test_other_text_still_encodes_and_case_does_not_matter(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("Zürich 7 ☃", padding="max_length", truncation=True).input_ids
    assert len(ids) == TEXT_TOKENS
    assert tokenizer.unk_token_id not in ids[1:6]
    assert tokenizer("A Red CAR").input_ids == tokenizer("a red car").input_ids


def test_shapes_fit_together(tokenizer: CLIPTokenizer) -> None:
    with torch.inference_mode():
        latents = build_vae().encode(torch.zeros(1, 3, 128, 128)).latent_dist.mean
        states = build_text_encoder(tokenizer)(torch.zeros(1, TEXT_TOKENS, dtype=torch.long)).last_hidden_state
        out = build_unet()(latents, 10, states).sample
    assert latents.shape == out.shape == (1, 8, 16, 16)
    assert states.shape == (1, 48, 128)
    assert build_scheduler().config.prediction_type == "v_prediction"


def test_all_parts_together_fit_into_16_mb_of_float16(tokenizer: CLIPTokenizer) -> None:
    parts = (build_vae(), build_unet(), build_text_encoder(tokenizer))
    assert 2 * sum(parameter.numel() for part in parts for parameter in part.parameters()) < 15.8e6


def test_the_running_average_forgets_the_initial_weights() -> None:
    module = torch.nn.Linear(1, 1)
    average = running_average(module, 0.998)
    torch.nn.init.constant_(module.weight, 1000.0)
    average.update_parameters(module)
    torch.nn.init.constant_(module.weight, 1.0)
    for _ in range(300):
        average.update_parameters(module)
    assert abs(average.module.weight.item() - 1.0) < 1e-3


def test_a_checkpoint_restores_module_and_optimizer(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate_share(50, 1000))
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    file = tmp_path / "state.pt"
    assert load_state(file, module=module) == 0
    save_state(file, 7, module=module, optimizer=optimizer)
    other = torch.nn.Linear(3, 2)
    restored = torch.optim.AdamW(other.parameters(), lr=1.0)
    assert load_state(file, module=other, optimizer=restored) == 7
    assert torch.equal(other.weight, module.weight)
    assert restored.state_dict()["param_groups"][0]["lr"] == learning_rate_share(50, 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    assert learning_rate_share(0, 1000) < 0.01
    assert learning_rate_share(199, 1000) > 0.85
    assert learning_rate_share(1000, 1000) == pytest.approx(0.0, abs=1e-9)


def test_the_command_resumes_and_writes_a_folder_that_generates_images(tmp_path: Path) -> None:
    state, out = tmp_path / "state", tmp_path / "tiny"
    vocabularies = []
    for steps in (1, 2):
        assert main(COMMAND.format(out=out, state=state, steps=steps).split()) == 0
        vocabularies.append((out / "tokenizer" / "tokenizer.json").read_bytes())
    assert vocabularies[0] == vocabularies[1]
    assert load_state(state / "unet.pt") == 2
    pipeline = StableDiffusionPipeline.from_pretrained(out, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red car", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (128, 128, 3)
    assert np.isfinite(image).all()
    decoder = torch.load(state / "decoder.pt", weights_only=True)["average"]["module.0.weight"]
    assert torch.equal(pipeline.vae.post_quant_conv.weight, decoder.half().float())
    assert (state / "latents-16.pt").exists()


def test_a_training_starts_from_an_earlier_base_model(tmp_path: Path) -> None:
    """Without steps it equals that base model, token ids included; with steps each training continues from it."""
    start = Path(__file__).parents[3] / "models/tiny-sd"
    earlier = StableDiffusionPipeline.from_pretrained(start, dtype=torch.float32)
    untouched = COMMAND.replace("vae_steps=2", "vae_steps=0").replace("decoder_steps=1", "decoder_steps=0")
    for steps in (0, 1):
        command = untouched.format(out=tmp_path / "tiny", state=tmp_path / "state", steps=steps)
        assert main([*command.split(), f"--start={start}"]) == 0
        later = StableDiffusionPipeline.from_pretrained(tmp_path / "tiny", dtype=torch.float32)
        assert later.tokenizer.get_vocab() == earlier.tokenizer.get_vocab()
        for part in ("vae", "unet", "text_encoder"):
            pairs = zip(getattr(later, part).parameters(), getattr(earlier, part).parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs) == (steps == 0 or part == "vae"), part


def test_a_start_that_is_not_a_tiny_base_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["base", str(tmp_path / "out"), f"--start={tmp_path / 'nothing'}", f"--state_dir={tmp_path / 'state'}"]) == 2
    assert "is not a tiny base model" in capsys.readouterr().err


def test_the_encoder_is_frozen_while_the_decoder_trains(tmp_path: Path) -> None:
    """Its encoder must stay: the latents that the UNet learns were encoded before."""
    main(COMMAND.format(out=tmp_path / "tiny", state=tmp_path, steps=0).split())
    before, after = average_of_vae(tmp_path, decoder=False), average_of_vae(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before.encoder.parameters(), after.encoder.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before.decoder.parameters(), after.decoder.parameters(), strict=True))
