"""Options of ``form: states``: exact sizes, their formulas in NumPy, symmetries, refusals."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from common.sparse import neighbor_attention
from spatial_ipa.model.block import IPALiteBlock
from spatial_ipa.model.frames import POINTS, FrameBlock, IPAFramesModel, turned, turned_back
from spatial_ipa.model.gate import EdgeGateSoft, shared_logit
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.pair import StatesNetwork, build_pair, settings_of
from spatial_ipa.model.pair_bias import PairBias
from spatial_ipa.model.point_attention import PointOffsets, with_point_distances
from spatial_ipa.model.recycle import Recycle
from spatial_ipa.model.similarity import similarity_features
from spatial_ipa.model.states import IPALiteModel
from spatial_ipa.model.unshared import IPAUnsharedModel

Array = NDArray[np.float64]

OPTIONS: dict[str, dict[str, object]] = {
    "no q.k": {"qk": False},
    "unshared": {"block": "unshared"},
    "unshared, offsets": {"block": "unshared", "point_offsets": 2, "pair_bias": True},
    "offsets": {"point_offsets": 2},
    "offsets, rbf": {"point_offsets": 2, "distance_term": "rbf"},
    "pair bias": {"pair_bias": True},
    "pair bias, rbf": {"pair_bias": True, "distance_term": "rbf"},
    "gate per head": {"gate_heads": "own"},
    "frames": {"block": "frames"},
    "frames, gate per head": {"block": "frames", "gate_heads": "own"},
}
ALL = pytest.mark.parametrize("option", list(OPTIONS))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shaken(module: nn.Module, seed: int = 0) -> None:
    """Make its zero-initialised parts random, and all of it float64."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if not bool(parameter.any()):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    module.double()


def inputs(n: int, d: int = 6, k: int = 7, seed: int = 0) -> tuple[Tensor, EdgeList]:
    h = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return h, knn_edges(h, k)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair_of(option: str, recycles: int = 2) -> tuple[StatesNetwork, EdgeGateSoft]:
    torch.manual_seed(0)
    settings = NetworkSettings(
        6, 10, 2, 4, recycles, form="states", **OPTIONS[option],  # type: ignore[arg-type]
    )  # fmt: skip
    network, gate = build_pair(settings, "gated")
    assert isinstance(network, StatesNetwork)
    assert isinstance(gate, EdgeGateSoft)
    shaken(network)
    gate.double()
    return network, gate


def softmax_over_row(logit: Array, edges: EdgeList, n: int) -> Array:
    """(n, n, H) dense attention, zero where there is no edge, from (n, n, H) logits."""
    there = np.zeros((n, n), bool)
    there[edges.dst.numpy(), edges.src.numpy()] = True
    a = np.where(there[:, :, None], np.exp(logit), 0.0)
    return a / np.maximum(a.sum(1, keepdims=True), 1e-300)


def numbers(*tensors: Tensor) -> list[Array]:
    return [t.detach().numpy() for t in tensors]


def dense(value: Tensor, edges: EdgeList, n: int) -> Array:
    """(n, n, H) from (E,) or (E, H)."""
    flat = value.detach().numpy().reshape(edges.num_edges, -1)
    full = np.zeros((n, n, flat.shape[1]))
    full[edges.dst.numpy(), edges.src.numpy()] = flat
    return full


# Sizes


@pytest.mark.parametrize(
    ("option", "count"),
    [
        ({"qk": False}, 154_674 - 2 * 96 * 128),
        ({"block": "unshared", "recycles": 3}, 352_281),  # as the reference design's
        ({"point_offsets": 4}, 154_674 + 2 * 96 * 4 * 4 * 2 + 4),
        ({"pair_bias": True}, 154_674 + 4 * 16 + 16 + 16 * 4),
        ({"gate_heads": "own"}, 154_674),
        # Of the block: points, gamma, wider update, second norm, step and angle; no W_x.
        (
            {"block": "frames"},
            154_674 - 16 + 3 * 96 * 32 + 4 + 48 * 192 + 192 + 97 * 3 + 144,
        ),
    ],
)
def test_parameter_counts(option: dict[str, object], count: int) -> None:
    network, gate = build_pair(NetworkSettings(form="states", **option), "gated")  # type: ignore[arg-type]
    assert parameters(network) == count
    assert gate is not None
    # 37,252 as the reference design's.
    assert parameters(gate) == (37_252 if "gate_heads" in option else 37_057)


def test_without_options_nothing_is_new() -> None:
    """Keys of public checkpoints of ``form: states``."""
    network, gate = build_pair(NetworkSettings(form="states"), "gated")
    names = ["to_state.0", "to_state.2", "to_start.0", "to_start.2", "block.update.0"]
    names += ["block.update.2", "block.norm"]
    expected = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    expected |= {f"block.{x}.weight" for x in "qkv"} | {"block.w_x"}
    assert set(network.state_dict()) == expected
    assert gate is not None
    assert set(gate.state_dict()) == {f"{x}{i}" for x in "wb" for i in (1, 2, 3)}


# Formulas


def test_long_vectors_hold_the_distances_of_points() -> None:
    """Softmax weights equal those of the formula, written out."""
    n, heads, c, p = 12, 2, 3, 2
    _, edges = inputs(n, k=5)
    q, k = draw(n, heads, c, seed=1), draw(n, heads, c, seed=2)
    of_q, of_k = draw(n, heads, p, 2, seed=3), draw(n, heads, p, 2, seed=4)
    weight = torch.tensor([0.7, 1.9], dtype=torch.float64)
    longer_q, longer_k = with_point_distances(q, k, of_q, of_k, weight)
    assert longer_q.shape == longer_k.shape == (n, heads, c + 2 * p + 1)
    found = np.einsum("ihc,jhc->ijh", *numbers(longer_q, longer_k)) / math.sqrt(c + 2 * p + 1)
    logit = np.einsum("ihc,jhc->ijh", *numbers(q, k)) / math.sqrt(c)
    u, w = numbers(of_q, of_k)
    square = ((u[:, None] - w[None]) ** 2).sum((-1, -2))
    logit = logit - 0.5 * weight.numpy() * square
    np.testing.assert_allclose(
        softmax_over_row(found, edges, n), softmax_over_row(logit, edges, n), atol=1e-12
    )


@pytest.mark.parametrize("product", ["scaled", "cosine", "none"])
@pytest.mark.parametrize("points", [0, 3])
def test_a_block_equals_its_formula(product: str, points: int) -> None:
    torch.manual_seed(1)
    block = IPALiteBlock(10, 2, 4, 1.5, product=product, points=points)  # type: ignore[arg-type]
    shaken(block)
    n = 15
    _, edges = inputs(n)
    s, x, gate = draw(n, 10), draw(n, 2, seed=2), draw(edges.num_edges, seed=3)
    graph = torch.zeros(n, dtype=torch.int64)
    found_s, found_x = block(Recycle(0, s, x, edges, gate, graph, 1))

    normed = block.norm(s)
    (v,) = numbers(block.v(normed).view(n, 2, 4))
    logit = 1.5 * dense(gate, edges, n).repeat(2, axis=2)
    if product != "none":
        q, k = numbers(block.q(normed).view(n, 2, 4), block.k(normed).view(n, 2, 4))
        if product == "cosine":
            assert block.tau.item() == 2  # the root of c
            q, k = (2 * q / np.linalg.norm(q, axis=2, keepdims=True),
                    k / np.linalg.norm(k, axis=2, keepdims=True))  # fmt: skip
            logit = logit + np.einsum("ihc,jhc->ijh", q, k)
        else:
            logit = logit + np.einsum("ihc,jhc->ijh", q, k) / 2
    if points:
        assert block.offsets is not None
        u, w = (
            layer(normed).view(n, 2, points, 2).detach().numpy() + x.numpy()[:, None, None]
            for layer in (block.offsets.query, block.offsets.key)
        )
        gamma = np.log1p(np.exp(block.offsets.gamma.detach().numpy()))
        square = ((u[:, None] - w[None]) ** 2).sum((-1, -2))
        logit = logit - gamma / (2 * points) * square
    a = softmax_over_row(logit, edges, n)
    out = np.einsum("ijh,jhc->ihc", a, v).reshape(n, 8)
    expected_s = s + block.update(torch.cat([normed, torch.from_numpy(out)], 1))
    difference = x.numpy()[None] - x.numpy()[:, None]  # (i, j): towards j
    step = np.einsum("ijh,hcd,ijd->ic", a, block.w_x.detach().numpy(), difference)
    torch.testing.assert_close(found_s, expected_s)
    np.testing.assert_allclose(found_x.detach(), x.numpy() + step, atol=1e-12)


def test_unshared_blocks_see_more_geometry_in_each_recycle() -> None:
    """Of three recycles the distance has no, half and full weight; each has a block of its own."""
    network, _ = pair_of("unshared", recycles=3)
    assert isinstance(network, IPAUnsharedModel)
    n = 15
    _, edges = inputs(n)
    s, x, gate = draw(n, 10), draw(n, 2, seed=2), draw(edges.num_edges, seed=3)
    graph = torch.zeros(n, dtype=torch.int64)
    gamma = np.log1p(np.exp(network.gamma.detach().numpy()))
    square = ((x.numpy()[:, None] - x.numpy()[None]) ** 2).sum(-1)
    for step, share in enumerate((0.0, 0.5, 1.0)):
        block = network.blocks[step]
        assert isinstance(block, IPALiteBlock)
        found_s, found_x = network.recycle(Recycle(step, s, x, edges, gate, graph, 1))
        bias = 2.0 * dense(gate, edges, n) - share * gamma * square[:, :, None]
        given = torch.from_numpy(bias[edges.dst.numpy(), edges.src.numpy()])
        expected_s, expected_x = block(Recycle(0, s, x, edges, given, graph, 1))
        torch.testing.assert_close(found_s, expected_s)
        torch.testing.assert_close(found_x, expected_x)
        assert block.tau is not network.blocks[step - 1].tau


def test_pair_bias_equals_its_formula_and_starts_at_zero() -> None:
    h, edges = inputs(20)
    bias = PairBias(3).double()
    assert not bias(h, edges).any()
    shaken(bias)
    first, last = bias.mlp[0], bias.mlp[2]
    hidden = similarity_features(h, edges) @ first.weight.T + first.bias
    expected = (hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))) @ last.weight.T
    torch.testing.assert_close(bias(h, edges), expected)


def test_gate_per_head_has_a_row_for_each_on_shared_hidden_layers() -> None:
    h, edges = inputs(20)
    torch.manual_seed(0)
    gate = EdgeGateSoft(6, 8, heads=3).double()
    found = gate(h, edges)
    for head in range(3):
        single = EdgeGateSoft(6, 8).double()
        state = gate.state_dict()
        rows = {name: state[name][head : head + 1] for name in ("w3", "b3")}
        single.load_state_dict(state | rows)
        torch.testing.assert_close(found[:, head], single(h, edges))
    torch.testing.assert_close(shared_logit(found), found.mean(1))
    assert shared_logit(found[:, 0]).shape == (edges.num_edges,)


@pytest.mark.parametrize("option", ["gate per head", "pair bias", "frames, gate per head"])
def test_logits_of_edges_are_added_once(option: str) -> None:
    """beta times the gate of each head, and the bias of pairs."""
    network, gate = pair_of(option)
    h, edges = inputs(20)
    logit = gate(h, edges)
    found = network.edge_logits(h, edges, logit)
    expected = 2.0 * (logit if logit.dim() == 2 else logit[:, None].expand(-1, 2))
    if network.pair_bias is not None:
        expected = expected + network.pair_bias(h, edges)
    assert found is not None
    torch.testing.assert_close(found, expected)


def test_a_frame_block_equals_its_formula() -> None:
    torch.manual_seed(1)
    block = FrameBlock(10, 2, 4, 1.5)
    shaken(block)
    n = 15
    _, edges = inputs(n)
    s, x, gate = draw(n, 10), draw(n, 2, seed=2), draw(edges.num_edges, seed=3)
    angle = draw(n, seed=4)
    direction = torch.stack([angle.cos(), angle.sin()], 1)
    found = block(s, direction, x, edges, gate)

    normed = block.norm(s)
    q, k, v = numbers(*(layer(normed).view(n, 2, 4) for layer in (block.q, block.k, block.v)))
    local = block.points(normed).view(n, 3, 2, POINTS, 2).detach().numpy()
    cos, sin = np.cos(angle.numpy()), np.sin(angle.numpy())
    turn = np.stack([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)
    place = x.numpy()
    u, w, z = np.einsum("ncd,nthpd->tnhpc", turn, local) + place[:, None, None]
    gamma = np.log1p(np.exp(block.gamma.detach().numpy()))
    square = ((u[:, None] - w[None]) ** 2).sum((-1, -2))
    logit = np.einsum("ihc,jhc->ijh", q, k) / 2 + 1.5 * dense(gate, edges, n)
    a = softmax_over_row(logit - gamma / (2 * POINTS) * square, edges, n)
    scalars = np.einsum("ijh,jhc->ihc", a, v).reshape(n, -1)
    seen = np.einsum("ijh,jhpc->ihpc", a, z) - place[:, None, None]
    own = np.einsum("ndc,nhpd->nhpc", turn, seen)  # the transpose turns back
    length = np.sqrt((own**2).sum(-1) + 1e-8)
    parts = [normed.detach().numpy(), scalars, own.reshape(n, -1), length.reshape(n, -1)]
    state = s + block.update(torch.from_numpy(np.concatenate(parts, 1)))
    move = block.move(block.norm_moved(state)).detach().numpy()
    expected_x = place + np.einsum("ncd,nd->nc", turn, move[:, 1:])
    after = angle.numpy() + move[:, 0]
    torch.testing.assert_close(found[0], state)
    np.testing.assert_allclose(
        found[1].detach(), np.stack([np.cos(after), np.sin(after)], 1), atol=1e-12
    )
    np.testing.assert_allclose(found[2].detach(), expected_x, atol=1e-12)


# Symmetries


def test_turning_back_undoes_turning() -> None:
    angle = draw(7, 1)
    direction = torch.cat([angle.cos(), angle.sin()], 1)
    vector = draw(7, 2, seed=2)
    torch.testing.assert_close(turned_back(direction, turned(direction, vector)), vector)
    torch.testing.assert_close(turned(direction, vector).norm(dim=1), vector.norm(dim=1))


@pytest.mark.parametrize("mirror", [False, True])
def test_frames_move_and_turn_with_the_plane_but_are_no_mirror_images(mirror: bool) -> None:
    torch.manual_seed(0)
    block = FrameBlock(10, 2, 4)
    shaken(block)
    n = 20
    _, edges = inputs(n)
    s, x, angle = draw(n, 10), draw(n, 2, seed=2), draw(n, 1, seed=3)
    direction = torch.cat([angle.cos(), angle.sin()], 1)
    matrix = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    if mirror:
        matrix = matrix @ torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    shift = torch.tensor([4.0, -1.0], dtype=torch.float64)
    plain = block(s, direction, x, edges, None)
    moved = block(s, direction @ matrix.T, x @ matrix.T + shift, edges, None)
    if mirror:
        assert (moved[0] - plain[0]).abs().max() > 1e-3
        return
    torch.testing.assert_close(moved[0], plain[0])
    torch.testing.assert_close(moved[1], plain[1] @ matrix.T)
    torch.testing.assert_close(moved[2], plain[2] @ matrix.T + shift)


@pytest.mark.parametrize("product", ["cosine", "none"])
def test_other_products_leave_the_pose_alone(product: str) -> None:
    """States ignore it, mirror images too; the step turns along where W_x is a multiple of 1."""
    torch.manual_seed(0)
    block = IPALiteBlock(10, 2, 4, product=product)  # type: ignore[arg-type]
    shaken(block)
    block.w_x.data = torch.tensor([0.3, -0.2], dtype=torch.float64)[:, None, None] * torch.eye(2)
    _, edges = inputs(20)
    s, x, gate = draw(20, 10), draw(20, 2, seed=2), draw(edges.num_edges, seed=3)
    matrix = torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)
    shift, graph = torch.tensor([4.0, -1.0]), torch.zeros(20, dtype=torch.int64)
    s1, x1 = block(Recycle(0, s, x, edges, gate, graph, 1))
    s2, x2 = block(Recycle(0, s, x @ matrix.T + shift, edges, gate, graph, 1))
    torch.testing.assert_close(s2, s1)
    torch.testing.assert_close(x2, x1 @ matrix.T + shift)


def test_offsets_ignore_where_but_not_which_way() -> None:
    torch.manual_seed(0)
    block = IPALiteBlock(10, 2, 4, points=2)
    shaken(block)
    _, edges = inputs(20)
    s, x, graph = draw(20, 10), draw(20, 2, seed=2), torch.zeros(20, dtype=torch.int64)
    matrix = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    s1, x1 = block(Recycle(0, s, x, edges, None, graph, 1))
    s2, x2 = block(Recycle(0, s, x + 3, edges, None, graph, 1))
    torch.testing.assert_close(s2, s1)
    torch.testing.assert_close(x2, x1 + 3)
    assert (block(Recycle(0, s, x @ matrix.T, edges, None, graph, 1))[0] - s1).abs().max() > 1e-3


@ALL
def test_nodes_may_be_renamed(option: str) -> None:
    network, gate = pair_of(option)
    h, edges = inputs(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    place = torch.empty_like(order)
    place[order] = torch.arange(30)
    moved = EdgeList.from_edge_index(place[edges.edge_index], 30)
    x = network(h, edges, gate(h, edges)).x
    y = network(h[order], moved, gate(h[order], moved)).x
    torch.testing.assert_close(y, x[order], rtol=1e-8, atol=1e-9)


@ALL
def test_batch_neighbours_do_not_matter(option: str) -> None:
    network, gate = pair_of(option)
    parts = [inputs(n, seed=n) for n in (30, 12, 25)]
    alone = torch.cat([network(h, e, gate(h, e)).x for h, e in parts])
    h, union = torch.cat([h for h, _ in parts]), EdgeList.disjoint_union([e for _, e in parts])
    graph = torch.repeat_interleave(torch.tensor([30, 12, 25]))
    together = network(h, union, gate(h, union), graph, 3).x
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-9)


@ALL
def test_a_fresh_network_returns_its_start(option: str) -> None:
    settings = NetworkSettings(6, 10, 2, 4, 2, form="states", **OPTIONS[option])  # type: ignore[arg-type]
    network, _ = build_pair(settings, "gated")
    h, edges = inputs(20)
    layout = network(h.float(), edges, None)
    for x in layout.trajectory[1:]:
        torch.testing.assert_close(x, layout.trajectory[0], rtol=1e-5, atol=1e-6)


@ALL
def test_isolated_nodes_stay_finite(option: str) -> None:
    network, gate = pair_of(option)
    h, _ = inputs(10)
    edges = EdgeList.from_edge_index(torch.tensor([[1, 2], [0, 0]]), 10)
    h.requires_grad_()
    x = network(h, edges, gate(h, edges)).x
    x.square().mul(draw(10, 2)).sum().backward()
    assert torch.isfinite(x).all()
    assert h.grad is not None
    assert torch.isfinite(h.grad).all()


# Gradients


def test_gradients_of_point_distances() -> None:
    n, heads, c, p = 6, 2, 2, 2
    _, edges = inputs(n, k=3)
    leaves = [
        draw(n, heads, c, seed=1), draw(n, heads, c, seed=2), draw(n, heads, p, 2, seed=3),
        draw(n, heads, p, 2, seed=4), draw(heads, seed=5).abs(),
    ]  # fmt: skip
    for leaf in leaves:
        leaf.requires_grad_()
    v, x, w_x = draw(n, heads, c + 2 * p + 1, seed=6), draw(n, 2, seed=7), draw(heads, 2, 2, seed=8)

    def attend(*given: Tensor) -> tuple[Tensor, Tensor]:
        return neighbor_attention(*with_point_distances(*given), v, x, edges, w_x)

    assert torch.autograd.gradcheck(attend, leaves, eps=1e-6, atol=1e-7)


def test_gradients_of_a_frame_block() -> None:
    torch.manual_seed(0)
    block = FrameBlock(4, 2, 2)
    shaken(block)
    _, edges = inputs(6, k=3)
    angle = draw(6, 1, seed=3).requires_grad_()
    leaves = (draw(6, 4).requires_grad_(), draw(6, 2, seed=2).requires_grad_())

    def step(s: Tensor, x: Tensor, angle: Tensor) -> tuple[Tensor, ...]:
        return tuple(block(s, torch.cat([angle.cos(), angle.sin()], 1), x, edges, None))

    assert torch.autograd.gradcheck(step, (*leaves, angle), eps=1e-6, atol=1e-7)


@ALL
def test_gradients_reach_every_parameter_that_is_read(option: str) -> None:
    network, gate = pair_of(option)
    h, edges = inputs(14, k=5)
    (network(h, edges, gate(h, edges)).x * draw(14, 2)).sum().backward()
    last = f"blocks.{network.recycles - 1}"
    for name, parameter in [*network.named_parameters(), *gate.named_parameters()]:
        if name.startswith(f"{last}.update"):
            assert parameter.grad is None, name  # states after the last recycle have no reader
            continue
        assert parameter.grad is not None, name
        if name in ("b3", "to_start.2.bias"):
            # They shift all logits of a row, or all cells, alike: nothing but rounding comes back.
            assert float(parameter.grad.abs().max()) < 1e-12, name
            continue
        # Without q and k nothing reads states.
        states = ("to_state", "block.norm", "block.v", "block.update")
        read_by_none = (
            name == f"{last}.v.weight"
            or (option == "no q.k" and name.startswith(states))
        )  # fmt: skip
        assert bool(parameter.grad.any()) is not read_by_none, name


# Settings


@ALL
def test_a_checkpoint_brings_its_options_back(option: str) -> None:
    settings = NetworkSettings(form="states", **OPTIONS[option])  # type: ignore[arg-type]
    found, graph = settings_of({"network": asdict(settings), "graph": "gated"})
    assert (found, graph) == (settings, "gated")
    network, gate = build_pair(found, "gated")
    other = build_pair(settings, "gated")
    network.load_state_dict(other[0].state_dict())
    assert gate is not None
    assert other[1] is not None
    gate.load_state_dict(other[1].state_dict())


def test_options_choose_the_network() -> None:
    kinds = {"shared": IPALiteModel, "unshared": IPAUnsharedModel, "frames": IPAFramesModel}
    for block, kind in kinds.items():
        settings = NetworkSettings(form="states", block=block)  # type: ignore[arg-type]
        assert type(build_pair(settings, "gated")[0]) is kind


@ALL
def test_form_points_refuses_options_of_states_by_name(option: str) -> None:
    first = next(iter(OPTIONS[option].items()))
    settings = NetworkSettings(**OPTIONS[option])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{first[0]}={first[1]}.*for form=states only"):
        build_pair(settings, "gated")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block": "unshared", "qk": False}, "qk=False: not with block=unshared, which has"),
        ({"block": "unshared", "distance_term": "rbf"}, "distance_term=rbf: not with block=unsh"),
        ({"block": "frames", "point_offsets": 2}, "point_offsets=2: not with block=frames"),
        ({"block": "frames", "pair_bias": True}, "pair_bias=True: not with block=frames"),
        ({"block": "frames", "qk": False}, "qk=False: not with block=frames"),
        ({"block": "twice"}, "block must be shared or unshared or frames, got 'twice'"),
        ({"gate_heads": "two"}, "gate_heads must be shared or own, got 'two'"),
        ({"point_offsets": -1}, "point_offsets must not be negative, got -1"),
    ],
)
def test_settings_that_do_not_go_together(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkSettings(form="states", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("graph", ["candidates", "true"])
def test_options_that_need_a_gate(graph: str) -> None:
    for given, message in (
        ({"gate_heads": "own"}, f"gate_heads=own needs a gate, and graph={graph} has none"),
        ({"qk": False}, f"qk=False with graph={graph} leaves attention without any logit"),
    ):
        with pytest.raises(ValueError, match=message):
            build_pair(NetworkSettings(form="states", **given), graph)  # type: ignore[arg-type]
    settings = NetworkSettings(form="states", qk=False, pair_bias=True)
    assert build_pair(settings, graph)[1] is None  # type: ignore[arg-type]


def test_offsets_are_the_width_they_say() -> None:
    offsets = PointOffsets(10, 2, 3).double()
    h, x = draw(8, 10), draw(8, 2)
    q, k, v = (draw(8, 2, 4, seed=i) for i in range(3))
    longer = offsets(h, x, q, k, v)
    assert {tuple(t.shape) for t in longer} == {(8, 2, 4 + 2 * 3 + 1)}
    assert torch.equal(longer[2][..., :4], v)
    assert not longer[2][..., 4:].any()
