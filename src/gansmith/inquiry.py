"""One evaluation: features of everything, then metrics, judges with controls, copies, the game, and the verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from . import __version__, files, registry
from .base import Batch, Codec
from .duality import duality_gap, held_out_gap
from .gather import Exhibits, Pool, Say
from .metrics import features, memorisation
from .metrics.evidence import Estimate, Evidence, Sample
from .metrics.features import Extractor
from .metrics.judge import LEAST, Ruling, ladder, rule
from .metrics.spoil import WAYS, spoil
from .metrics.stacked import stacked_modes
from .metrics.verdict import Verdict, n_to_certify, verdict

PICTURES = 64  # on a sheet of the report
CONV_SEEDS = 3  # fits of the strongest judge with --full


def digest(*facts: Any) -> str:
    return files.sha256(json.dumps([__version__, *facts], default=str).encode())[:32]


class Notebook:
    """Results so far, kept on disk so that an interrupted evaluation goes on where it stopped."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self.pages: dict[str, Any] = {}
        with suppress(Exception):  # torn or foreign: begin anew
            held = files.read_json(path)
            self.pages = dict(held["pages"]) if held["key"] == key else {}

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` returns, JSON, done at most once for this evaluation."""
        if name not in self.pages:
            self.pages[name] = json.loads(files.to_json(work()))
            files.write_json(self.path, {"key": self.key, "pages": self.pages})
        return self.pages[name]

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


class Inquiry:
    """All that is found out about one set of fakes. folder: of the report; full: every control, more seeds, the game."""

    def __init__(self, exhibits: Exhibits, folder: Path, seed: int, delta: float, full: bool, say: Say):
        self.exhibits, self.seed, self.delta, self.full, self.say = exhibits, seed, delta, full, say
        self.kind = exhibits.codec.spec().kind
        self.notebook = Notebook(folder / "partial.json", digest(exhibits.data, exhibits.made, seed, full))

    # ---- what is compared -------------------------------------------------------------------------------------------
    @cached_property
    def extractor(self) -> Extractor:
        """Features learned from E alone; kept in the cache folder for the next evaluation on the same data."""
        learn = self.exhibits.parts["E"]
        key = digest("extractor", self.exhibits.data)
        where = digest(self.exhibits.data)

        def make() -> Extractor:
            shape = self.exhibits.codec.spec().shape
            scale_by = (self.exhibits.parts.get("T") or self.exhibits.parts["V"]).x[: features.RUNGS]
            return features.fit(
                self.kind, learn.x, learn.y, self.exhibits.classes, shape=shape, reference=scale_by, fingerprint=where,
                say=self.say,
            )  # fmt: skip

        return features.cached(key, make)

    def sample(self, role: str) -> Sample:
        """A role's real examples with their features, which are cached by content."""
        pool = self.exhibits.parts[role]
        content = files.sha256(np.ascontiguousarray(pool.x).data)
        path = files.cache_folder() / f"{digest('features', self.extractor.hash, content)}.safetensors"
        with suppress(Exception):
            return Sample(pool.x, safetensors.numpy.load_file(path)["features"], pool.y)
        self.say(f"features of {len(pool):,} real examples ({role})")
        made = Sample(pool.x, self.extractor(pool.x), pool.y)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, safetensors.numpy.save({"features": made.features}))
        return made

    @cached_property
    def evidence(self) -> Evidence:
        e = self.exhibits
        self.say(f"features of {len(e.fake):,} fakes")
        fake = Sample(e.fake.x, self.extractor(e.fake.x), e.fake.y)
        held = {role: self.sample(role) for role in ("T", "V", "H", "test") if len(e.parts.get(role, ()))}
        return Evidence(
            self.kind, fake, held["H"], held["V"], held.get("T"), held.get("test"), e.classes, e.modes, self.seed
        )

    @cached_property
    def fresh(self) -> Sample | None:
        """Real examples that stand in for fakes in control C0: from T, None where it is too small."""
        v = self.evidence
        assert v.judge is not None
        if v.train is None or len(v.train) < len(v.judge) + len(v.held):
            return None
        return v.train[: max(len(v.fake), len(v.judge) + len(v.held))]

    # ---- metrics ----------------------------------------------------------------------------------------------------
    def metrics(self) -> dict[str, Estimate]:
        """Every registered metric, with the same figure of real examples as its floor."""
        ev = self.evidence
        real_h = self.fresh or ev.judge
        assert real_h is not None and ev.judge is not None
        ev = ev.swap(ev.fake[: len(real_h)])
        pooled = joined(ev.judge, ev.held)
        against = {"H": real_h, "test": real_h, "T": pooled}
        found: dict[str, Estimate] = {}
        for name in registry.names("metric"):
            metric = registry.get("metric", name)
            self.say(f"metric {name}")

            def work(metric: Any = metric) -> Any:
                values = metric(ev)
                bare = {estimate.reference for estimate in values.values() if not math.isfinite(estimate.floor)}
                floors = {r: metric(ev.swap(against[r][: len(ev.fake)])) for r in bare}
                return {
                    key: asdict(e if math.isfinite(e.floor) else replace(e, floor=floors[e.reference][key].value))
                    for key, e in values.items()
                }

            page = self.notebook.once(f"metric/{name}", work)
            found |= {key: Estimate(**numbers(values)) for key, values in page.items()}
        return found

    def stacked(self) -> dict[str, Estimate]:
        """Modes of stacked digits: a classifier of single ones, learned on E, names each channel."""
        singles, ev = self.exhibits.singles, self.evidence
        if singles is None or (labels := singles.y) is None:
            return {}

        def work() -> Any:
            self.say("counting modes")
            real_ones = ev.held if self.fresh is None else self.fresh[: len(ev.fake)]
            one = features.fit("image", singles.x, labels, tuple(map(str, range(int(labels.max()) + 1))))
            made, real = (stacked_modes(one.classify, s.x, len(one.card["classes"])) for s in (ev.fake, real_ones))
            found = {"stacked_modes": (made.modes, real.modes), "stacked_kl": (made.kl, real.kl)}
            found |= {"stacked_excess_kl": (made.excess, real.excess)}
            return {name: asdict(Estimate(value, n=made.n, floor=floor)) for name, (value, floor) in found.items()}

        return {key: Estimate(**numbers(page)) for key, page in self.notebook.once("stacked", work).items()}

    def ladder(self) -> dict[str, float]:
        """The distance of known damage to real examples, which gives distances a scale."""
        v, real = self.evidence, self.evidence.train or self.evidence.judge
        assert real is not None
        path = files.cache_folder() / f"{digest('ladder', self.extractor.hash, self.exhibits.data)}.json"
        with suppress(Exception):
            return dict(files.read_json(path))
        self.say("calibration ladder")
        rungs = features.ladder(self.extractor, joined(v.judge, v.held), real)
        with suppress(OSError):
            files.write_json(path, rungs)
        return rungs

    def per_class(self) -> dict[str, Any]:
        """Of a conditional generator: how often the extractor's classifier names the class asked for, and FD within it."""
        if not self.exhibits.conditional or self.extractor.card["method"] != "classifier":
            return {}
        return dict(self.notebook.once("classes", self._per_class))

    def _per_class(self) -> dict[str, Any]:
        ev, rows = self.evidence, {}
        made, held = (self.extractor.classify(s.x) == s.y for s in (ev.fake, ev.held))
        for i, name in enumerate(self.exhibits.classes):
            fake, real = np.flatnonzero(ev.fake.y == i), np.flatnonzero(ev.held.y == i)
            if not len(fake) or not len(real):
                continue
            rows[name] = {
                "accuracy": float(made[fake].mean()),
                "floor": float(held[real].mean()),
                "fd": features.distance(ev.fake.features[fake], ev.held.features[real]),
                "n": len(fake),
            }
        return rows

    # ---- judges -----------------------------------------------------------------------------------------------------
    def judges(self) -> tuple[dict[str, Ruling], dict[str, dict[str, Ruling]]]:
        """The ladder of judges on the fakes, and on the controls: C0 always, C1 with `full`."""
        ev = self.evidence
        assert ev.judge is not None
        real = ev.judge, ev.held
        if self.fresh is not None:
            both = real, halves(self.fresh, len(real[0]), len(real[1]))
        else:  # half of the judges' own examples against the other
            (a, b), (c, d) = (halves(part, len(part) // 2, len(part) // 2) for part in real)
            both = (a, c), (b, d)
        fakes = halves(ev.fake, len(real[0]), len(real[1]))
        names = ladder(self.kind)
        rulings = {name: self.rule(name, "fakes", real, fakes) for name in names}
        controls = {"c0": {name: self.rule(name, "c0", *both) for name in names}}
        if self.full:  # to the strongest judge alone
            spoilt = self.known_bad(both[1])
            controls["c1"] = {how: self.rule(names[-1], f"c1/{how}", both[0], bad, 1) for how, bad in spoilt.items()}
        return rulings, controls

    def rule(
        self, name: str, about: str, real: tuple[Sample, Sample], fake: tuple[Sample, Sample], seeds: int = 0
    ) -> Ruling:
        """One judge, fitted on the first of each pair and tested on the second."""
        many = tuple(range(seeds or (CONV_SEEDS if self.full else 1)))
        self.say(f"judge {name} on {about}")

        def work() -> Any:
            found = asdict(rule(name, real[0], fake[0], real[1], fake[1], seeds=many, say=self.say))
            return found | {side: found[side].round(6).tolist() for side in ("real", "fake")}

        page = numbers(self.notebook.once(f"judge/{about}/{name}", work))
        return Ruling(**page | {side: np.array(page[side]) for side in ("real", "fake")})

    def known_bad(self, real: tuple[Sample, Sample]) -> dict[str, tuple[Sample, Sample]]:
        """C1's fakes by name: real examples spoilt, and what the run made when it had hardly learned."""
        rng, modes, (n, m) = np.random.default_rng(self.seed), self.exhibits.modes, map(len, real)
        whole = np.concatenate([part.x for part in real])
        made = {how: spoil(whole, how, rng, modes[0] if modes else None) for how in WAYS[self.kind]}
        if self.exhibits.early is not None:
            made["early"] = self.exhibits.early(n + m)
        return {how: halves(Sample(x, self.extractor(x)), n, m) for how, x in made.items()}

    # ---- copies and the game ----------------------------------------------------------------------------------------
    def copies(self, metrics: dict[str, Estimate]) -> dict[str, Any]:
        """The copy checks in one word, and their figures."""
        word, reason = memorisation.copies_verdict(metrics, self.evidence)
        figures = {name: estimate.value for name, estimate in metrics.items() if name in memorisation.NAMES}
        return {"verdict": word, "reason": reason, **figures}

    def copycat(self) -> dict[str, Any]:
        """C2: training examples put forward as fakes must be called copies."""
        if not self.full or self.fresh is None:
            return {}

        def work() -> Any:
            ev = self.evidence.swap(self.fresh[: len(self.evidence.held)])  # type: ignore[index]
            word, reason = memorisation.copies_verdict(registry.get("metric", "memorisation")(ev), ev)
            return {"verdict": word, "reason": reason}

        return dict(self.notebook.once("c2", work))

    def game(self) -> dict[str, Any]:
        """The duality gap, with `full`; of a run alone, for it needs the players."""
        model, e = self.exhibits.model, self.exhibits
        if model is None or not self.full:
            return {}
        search = {"steps": 500, "restarts": 3} if self.kind == "points" else {"steps": 200, "restarts": 2}

        def work() -> Any:
            train, fit, test = (in_model_range(model.codec, e.parts[role]) for role in ("T", "V", "H"))
            gap = duality_gap(model, fit, test, seed=self.seed, say=self.say, **search)
            return gap | held_out_gap(model, train, test, seed=self.seed)

        return dict(self.notebook.once("game", work))

    # ---- the whole --------------------------------------------------------------------------------------------------
    def run(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The report (formats 5) and its pictures as PNG by name."""
        e = self.exhibits
        sizes = {"V": len(e.parts["V"]), "H": len(e.parts["H"])}
        least = LEAST if len(e.parts.get("T", ())) >= sum(sizes.values()) else 2 * LEAST
        if min(len(e.fake) // 2, *sizes.values()) < least:
            reason = (
                f"too few examples: judges need {least} real ones to learn from, as many to be asked about, and twice as "
                f"many fakes; there are {sizes['V']}, {sizes['H']} and {len(e.fake)}"
            )
            return self.heading(Verdict("UNDECIDED", reason, n_to_certify(self.delta))), {}
        metrics = self.metrics() | self.stacked()
        judges, controls = self.judges()
        copies = self.copies(metrics)
        if e.model is None and self.kind == "points":
            e.notes.append(
                "control C1 was not asked for more than it shows: without a run there is no early checkpoint"
            )
            gates = {"c0": controls["c0"]}
        else:
            gates = controls
        ruled = verdict(judges, gates, delta=self.delta)
        if copies["verdict"] == "copies" and ruled.name == "EQUILIBRIUM":
            ruled = Verdict("UNDECIDED", f"the fakes are copies: {copies['reason']}", None)
        found = self.heading(ruled) | {
            "judges": {name: ruling.to_json() for name, ruling in judges.items()},
            "controls": {c: {k: r.to_json() for k, r in some.items()} for c, some in controls.items()}
            | {"c2": self.copycat()},
            "metrics": {name: asdict(estimate) for name, estimate in metrics.items()},
            "ladder": self.ladder(),
            "copies": copies,
            "classes": self.per_class(),
            "game": self.game(),
            "features": {"name": self.extractor.card["name"], "hash": self.extractor.hash, "card": self.extractor.card},
        }
        return found, self.figures(judges)

    def heading(self, ruled: Verdict) -> dict[str, Any]:
        e = self.exhibits
        return {
            "schema": 1, "verdict": ruled.name, "reason": ruled.reason, "delta": self.delta, "need_n": ruled.need_n,
            "n": len(e.fake), "seeds": [self.seed], "checkpoint": e.model.name if e.model else None, "kind": self.kind,
            "data": {"name": e.name, "counts": {role: len(pool) for role, pool in e.parts.items()}}, "notes": e.notes,
            "judges": {}, "controls": {}, "metrics": {}, "ladder": {}, "copies": {"verdict": "unknown"}, "game": {},
            "features": {},
        }  # fmt: skip

    def figures(self, judges: dict[str, Ruling]) -> dict[str, bytes]:
        """Sheets: fakes, reals, the fakes caught most surely and least, and fakes beside their nearest training examples."""
        ev = self.evidence
        strongest = max(judges.values(), key=lambda ruling: ruling.accuracy)
        tested = halves(ev.fake, len(ev.judge or ()), len(ev.held))[1]
        order = np.argsort(-strongest.fake, kind="stable")
        sheets = {"fakes": ev.fake.x, "reals": ev.held.x}
        if self.kind == "image":
            sheets |= {"caught": tested.x[order], "passed": tested.x[order[::-1]]}
        drawn = {name: self.sheet(x[:PICTURES]) for name, x in sheets.items()}
        if ev.train is not None and self.kind == "image":
            fakes, trained, _ = memorisation.closest(ev.fake.features, ev.train.features, PICTURES // 2)
            pairs = np.stack([ev.fake.x[fakes], ev.train.x[trained]], 1)
            drawn["nearest"] = self.sheet(pairs.reshape(-1, *pairs.shape[2:]))
        return drawn

    def sheet(self, x: np.ndarray) -> bytes:
        codec = self.exhibits.codec
        return codec.preview(codec.decode(codec.to_model({"x": torch.from_numpy(np.ascontiguousarray(x))})["x"]))


def halves(sample: Sample, fit: int, test: int) -> tuple[Sample, Sample]:
    """Examples to fit a judge on and others to test it on: as many as asked for, else the half of what there is."""
    if len(sample) < fit + test:
        fit = len(sample) * fit // (fit + test)
    return sample[:fit], sample[fit : fit + test]


def joined(*samples: Sample | None) -> Sample:
    some = [s for s in samples if s is not None]
    labels = [s.y for s in some if s.y is not None]
    return Sample(
        np.concatenate([s.x for s in some]),
        np.concatenate([s.features for s in some]),
        np.concatenate(labels) if len(labels) == len(some) else None,
    )


def numbers(page: dict[str, Any]) -> dict[str, Any]:
    """JSON with null where a number was not finite, as it was."""
    return {key: float("nan") if value is None else value for key, value in page.items()}


def in_model_range(codec: Codec, pool: Pool) -> Batch:
    batch = {"x": torch.from_numpy(pool.x)} | ({} if pool.y is None else {"y": torch.from_numpy(pool.y)})
    return codec.to_model(batch)
