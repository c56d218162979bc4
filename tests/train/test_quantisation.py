"""Training in int8: the float arithmetic against ONNX Runtime's own, and what training in it gains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from indexer.distill.encoders import open_static
from indexer.distill.export import ExportSettings, export_encoder, open_session, run_session
from indexer.distill.models import quantise_student
from indexer.distill.quantisation import in_int8, round_rows, round_states, round_weight
from indexer.distill.scoring import tokenise_data
from indexer.distill.training_run import TrainingRun

pytestmark = pytest.mark.train

SETTINGS = ExportSettings(name="tiny", text_fields=("title",), text_separator="", min_parity=0.5)


def test_grids_by_hand():
    weight = torch.tensor([[1.27, -0.504, 0.0], [0.0, 0.0, 0.0]])
    assert round_weight(weight).tolist() == [pytest.approx([1.27, -0.50, 0.0]), [0.0, 0.0, 0.0]]
    # From -1 to 1.55 there are 255 steps of 0.01; each text has its own grid, and 0 is always on it.
    states = torch.tensor([[[-1.0, 0.004], [1.55, 0.126]], [[2.55, 0.512], [1.0, 0.0]]])
    expected = [[[-1.0, 0.0], [1.55, 0.13]], [[2.55, 0.51], [1.0, 0.0]]]
    np.testing.assert_allclose(round_states(states), expected, atol=1e-6)
    np.testing.assert_allclose(round_rows(torch.tensor([0.126]), states[0]), [0.13], atol=1e-6)


def test_the_gradient_goes_straight_through():
    weight = torch.tensor([[1.27, -0.504]], requires_grad=True)
    (round_weight(weight) * torch.tensor([[2.0, 3.0]])).sum().backward()
    assert weight.grad.tolist() == [[2.0, 3.0]]


@pytest.fixture
def rough(open_tiny):
    """The tiny model with weights of which some are far larger than the others, as trained ones are."""
    encoder = open_tiny((0, 2))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in encoder.transformer.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.add_(0.1 * noise * noise.abs())
    encoder.transformer.eval()
    return encoder


@pytest.mark.parametrize("kind", ["transformer", "static"])
def test_the_arithmetic_is_that_of_the_exported_file(rough, tiny_model, data, tmp_path, kind):
    encoder = rough if kind == "transformer" else open_static(str(tiny_model), query_tokens=8, product_tokens=16)
    sample = data.products[:12]
    plain = export_encoder(encoder, tmp_path, precision="int8", settings=SETTINGS, sample=sample)
    tokens = encoder.tokenise_products(sample)
    found = run_session(open_session(tmp_path / "encoder.onnx"), tokens)
    with in_int8(encoder.transformer):
        followed = torch.cat([encoder.embed_frozen([text]) for text in tokens]).numpy()
    assert 1 - (followed * found).sum(1).mean() < 0.01 * (1 - plain["mean_cosine"])
    back = export_encoder(encoder, tmp_path, precision="int8", settings=SETTINGS, sample=sample)
    assert back == plain


def test_training_in_int8_brings_the_file_nearer_to_the_student(rough, config, data, tiny_model, tmp_path):
    settings = replace(
        config.distill, student=str(tiny_model), student_layers=(0, 2), qat_epochs=6, batch_size=8, learning_rate=5e-4
    )
    before = {name: tensor.clone() for name, tensor in rough.transformer.state_dict().items()}
    run = TrainingRun(config=settings, data=data, folder=tmp_path, progress=False)
    quantised = quantise_student(run, rough)
    assert all(torch.equal(tensor, before[name]) for name, tensor in rough.transformer.state_dict().items())
    plain, trained = (
        export_encoder(
            encoder, tmp_path / name, precision="int8", settings=SETTINGS, sample=data.products, reference=rough
        )["mean_cosine"]
        for name, encoder in (("plain", rough), ("trained", quantised))
    )
    assert 1 - trained < 0.7 * (1 - plain)
    assert len(tokenise_data(quantised, data)) == len(data.queries) + len(data.products)
