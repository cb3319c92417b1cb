"""The split that is taken before training, and batches that are addressed by round and play."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny
from gansmith.base import Batch, Spec
from gansmith.config import Run
from gansmith.data import Data, LiveRows, Rows, Stream, encode_all, load_rows, open_data, split
from gansmith.errors import DataError, UsageError
from gansmith.runtime import Runtime

HELD = ("E", "V", "H")


# ---- split ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (99, (99, 0, 0, 0)), (100, (80, 0, 10, 10)), (1797, (1438, 0, 180, 179)), (4499, (3600, 0, 450, 449)),
        (4500, (3600, 300, 300, 300)), (80_000, (65_000, 5000, 5000, 5000)),
    ],
)  # fmt: skip
def test_sizes_follow_the_rule(n: int, sizes: tuple[int, ...]) -> None:
    parts = split([None] * n, ["train"] * n, 0)
    assert tuple(len(parts[role]) for role in ("T", *HELD)) == sizes


def test_test_and_val_folders_are_never_trained_on() -> None:
    splits = ["train"] * 200 + ["test"] * 50 + ["val"] * 30
    parts = split([None] * 280, splits, 0)
    assert parts["test"].tolist() == list(range(200, 250)) and parts["val"].tolist() == list(range(250, 280))
    assert sum(len(parts[role]) for role in HELD) == 40
    assert np.concatenate([parts[role] for role in ("T", *HELD)]).max() < 200


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=12), st.integers(0, 9))
def test_the_split_is_a_stratified_partition(counts: list[int], seed: int) -> None:
    labels = [str(c) for c, count in enumerate(counts) for _ in range(count)]
    order = np.random.default_rng(seed).permutation(len(labels))
    labels = [labels[i] for i in order]
    parts = split(labels, ["train"] * len(labels), seed)
    every = np.concatenate([parts[role] for role in ("T", *HELD)])
    assert sorted(every.tolist()) == list(range(len(labels)))
    twin = split(labels, ["train"] * len(labels), seed)
    assert all(np.array_equal(parts[role], twin[role]) for role in parts)
    assert set(labels) == {labels[i] for i in parts["T"]}  # every class is learned
    kin = sum(c for c in counts if c > 1)
    for roles, slack in ((HELD, 1.0), (("E",), 2.0), (("V",), 2.0), (("H",), 2.0)):
        chosen = np.concatenate([parts[role] for role in roles])
        for c, count in enumerate(counts):
            if count > 1:
                assert abs(sum(labels[i] == str(c) for i in chosen) - count * len(chosen) / kin) < slack


def test_the_seed_decides_the_split() -> None:
    one, other = (split([None] * 500, ["train"] * 500, seed) for seed in (0, 1))
    assert not np.array_equal(one["H"], other["H"])


def test_open_data_keeps_the_record_of_its_split() -> None:
    points = np.random.default_rng(0).normal(size=(200, 2))
    run = Run().set("train.seed=3")
    one, two = open_data(points, run), open_data(points, run)
    assert one.count == 160 and one.split_record() == two.split_record()
    assert one.split_record() != open_data(points, run.set("train.seed=4")).split_record()
    assert one.fingerprint != open_data(points + 1, run).fingerprint


@pytest.mark.parametrize(
    ("source", "words"),
    [("no-such-folder", "no file or folder"), ("digit", "Did you mean 'digits'"), (np.zeros((3, 5, 6, 7, 8)), "nothing"),
     (np.zeros((1, 2)), "at least 2")],
)  # fmt: skip
def test_what_cannot_be_learned_from(source: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_data(source, Run())


# ---- streams --------------------------------------------------------------------------------------------------------
class Rank(Runtime):
    """One of several ranks, without the others."""

    def __init__(self, rank: int = 0, world: int = 1):
        self.rank, self.world, self.device, self.kind = rank, world, torch.device("cpu"), "cpu"


def numbered(n: int) -> Rows:
    return Rows({"x": torch.arange(float(n))[:, None], "y": torch.arange(n)})


def stream(
    n: int = 20,
    batch: int = 6,
    plays: int = 1,
    on: Runtime | None = None,
    seed: tuple[int, ...] = (0, 0),
    even: bool = False,
) -> Stream:
    return Stream(tiny.Plain(tiny.spec((1,))), numbered(n), on or Rank(), batch, plays, 3, *seed, even=even)


def equal(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("even", [False, True])
def test_a_batch_depends_on_its_address_alone(even: bool) -> None:
    addresses = [(r, p) for r in range(12) for p in range(2)]
    forward, backward = stream(plays=2, even=even), stream(plays=2, even=even)
    there = {a: forward.batch(*a) for a in addresses}
    back = {a: backward.batch(*a) for a in reversed(addresses)}
    assert all(equal(there[a], back[a]) for a in addresses)
    assert not equal(there[0, 0], there[0, 1]) and there[0, 0].keys() == {"x", "y", "z", "u"}


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize(("n", "batch", "plays"), [(20, 6, 1), (7, 16, 1), (20, 6, 3)])
def test_every_example_once_an_epoch(n: int, batch: int, plays: int, even: bool) -> None:
    s = stream(n, batch, plays, even=even)
    seen = torch.cat([s.batch(r, p)["x"][:, 0] for r in range(12) for p in range(plays)]).tolist()
    for start in range(0, len(seen) - n, n):
        assert sorted(seen[start : start + n]) == list(range(n))
    assert seen[:n] != seen[n : 2 * n]


@pytest.mark.parametrize("even", [False, True])
def test_labels_stay_with_their_examples(even: bool) -> None:
    batch = stream(even=even).batch(5, 0)
    assert torch.equal(batch["x"][:, 0].long(), batch["y"])


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_one_batch(world: int, even: bool) -> None:
    whole, shares = stream(even=even), [stream(on=Rank(r, world), even=even) for r in range(world)]
    for address in ((0, 0), (3, 0), (9, 0)):
        parts = [s.batch(*address) for s in shares]
        assert equal(whole.batch(*address), {key: torch.cat([p[key] for p in parts]) for key in parts[0]})


def test_a_batch_that_ranks_cannot_share() -> None:
    with pytest.raises(UsageError, match=r"train\.batch = 6 cannot be shared by 4"):
        stream(on=Rank(0, 4))


@pytest.mark.parametrize("seed", [(1, 0), (0, 1)])
def test_another_seed_or_attempt_draws_anew(seed: tuple[int, int]) -> None:
    one, other = stream().batch(0, 0), stream(seed=seed).batch(0, 0)
    assert all(not torch.equal(one[key], other[key]) for key in ("x", "z", "u"))


def test_a_codec_may_draw_the_order_and_its_conditions() -> None:
    class Chosen(tiny.Plain):
        def order(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
            return np.arange(n)[::-1].copy(), np.full(n, 7)

    s = Stream(Chosen(tiny.spec((1,))), numbered(5), Rank(), 3, 1, 2, 0)
    batch = s.batch(0, 0)
    assert batch["x"][:, 0].tolist() == [4, 3, 2] and batch["y"].tolist() == [7, 7, 7]


# ---- rows -----------------------------------------------------------------------------------------------------------
class Numbers(tiny.Plain):
    """Raws are numbers; those in `broken` cannot be read."""

    def __init__(self, of: Spec, *broken: int):
        super().__init__(of)
        self.broken = broken

    def encode(self, raws: Any) -> Batch:
        return {"x": torch.tensor([[float(r)] for r in raws if r not in self.broken]).view(-1, 1)}


class Raws(list[int]):
    def take(self, indices: Any) -> "Raws":
        return Raws(self[int(i)] for i in indices)


def taken(rows: Rows | LiveRows, indices: list[int]) -> list[float]:
    return rows.take(torch.tensor(indices))["x"][:, 0].tolist()


def test_examples_read_as_they_come_equal_those_in_memory() -> None:
    codec = Numbers(tiny.spec((1,)))
    raws = Raws(range(30))
    streams = [Stream(codec, rows, Rank(), 4, 2, 2, 0) for rows in (Rows(codec.encode(raws)), LiveRows(codec, raws))]
    for address in [(0, 0), (0, 1), (1, 0), (7, 1), (2, 0), (3, 0)]:
        assert equal(*(s.batch(*address) for s in streams))
    for s in streams:
        s.close()


def test_a_broken_example_gives_way_to_the_next_good_one() -> None:
    rows = LiveRows(Numbers(tiny.spec((1,)), 1, 4), Raws(range(5)))
    assert taken(rows, [0, 1, 2, 3, 4]) == [0, 2, 2, 3, 0] and rows.count == 5
    with pytest.raises(DataError, match="can be read any more"):
        taken(LiveRows(Numbers(tiny.spec((1,)), *range(5)), Raws(range(5))), [0])


def test_encoding_leaves_broken_examples_out() -> None:
    codec = Numbers(tiny.spec((1,)), 3, 600)
    assert len(encode_all(codec, Raws(range(700)))["x"]) == 698
    with pytest.raises(DataError, match="Fewer than 2"):
        encode_all(codec, Raws([3, 600, 5]))


@pytest.mark.parametrize(("cache", "kind"), [(1 << 20, Rows), (100, LiveRows)])
def test_what_fits_is_held_in_memory(cache: int, kind: type) -> None:
    parts = {"T": np.arange(10, 50), "E": np.arange(0), "V": np.arange(5), "H": np.arange(5, 10)}
    data = Data(Numbers(tiny.spec((1,))), Raws(range(50)), parts, "f")
    said: list[str] = []
    rows = load_rows(data, cache, said.append)
    assert type(rows) is kind and rows.count == 40 and taken(rows, [0, 39]) == [10, 49]
    assert bool(said) == (kind is LiveRows)


def test_rows_can_move_and_keep_their_values() -> None:
    rows = numbered(5).to(torch.device("cpu"))
    y: Tensor = rows.take(torch.tensor([3, 1]))["y"]
    assert y.tolist() == [3, 1]
