from __future__ import annotations

import torch

from training.models.positions import Learned, Rotary, Sinusoidal, sinusoids


def test_position_codes_are_sines_and_cosines():
    codes = sinusoids(7, 6)
    assert codes[0].tolist() == [0, 1, 0, 1, 0, 1]
    torch.testing.assert_close(codes[3, 0], torch.sin(torch.tensor(3.0)))
    torch.testing.assert_close(codes[3, 3], torch.cos(torch.tensor(3.0) / 10_000 ** (2 / 6)))


def test_an_odd_width_has_one_cosine_less():
    assert sinusoids(4, 5).shape == (4, 5)
    torch.testing.assert_close(sinusoids(4, 5)[2, 4], torch.sin(torch.tensor(2.0) / 10_000 ** (4 / 5)))


def test_codes_are_added_from_the_first_position_on():
    for positions in (Sinusoidal(9, 6), Learned(9, 6)):
        x = torch.randn(2, 4, 6)
        torch.testing.assert_close(positions(x) - x, positions.codes[:4].expand(2, 4, 6))


def test_only_learned_codes_are_weights_of_a_checkpoint():
    assert list(Sinusoidal(9, 6).state_dict()) == list(Rotary(9, 6).state_dict()) == []
    assert list(Learned(9, 6).state_dict()) == ["codes"]


def test_the_product_of_rotated_vectors_depends_on_their_distance_alone():
    torch.manual_seed(0)
    rotate = Rotary(20, 8)
    q, k = torch.randn(2, 8)
    scores = rotate(q.expand(1, 1, 20, 8))[0, 0] @ rotate(k.expand(1, 1, 20, 8))[0, 0].T  # [query position, key position]
    for distance in range(-19, 20):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores[0, 0], q @ k)
    assert scores[0].std() > 0.1, "other distances give other scores"


def test_rotation_keeps_lengths_and_turns_by_the_position():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 6)
    turned = Rotary(9, 6)(x)
    torch.testing.assert_close(turned.norm(dim=3), x.norm(dim=3))
    complex_x, complex_turned = (torch.complex(*part.chunk(2, dim=3)) for part in (x, turned))
    angle = torch.arange(7)[:, None] / 10_000 ** (torch.arange(3) / 3)
    torch.testing.assert_close(complex_turned, complex_x * torch.exp(1j * angle))
