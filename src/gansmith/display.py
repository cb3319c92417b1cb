"""What a person sees while something runs: a progress bar on a terminal, plain lines elsewhere. All on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol


class Display(Protocol):
    """Where training reports. say: a sentence; show: a log row."""

    def say(self, text: str) -> None: ...

    def show(self, row: dict[str, Any]) -> None: ...


class Silent:
    """Reports nothing."""

    def say(self, text: str) -> None:
        pass

    def show(self, row: dict[str, Any]) -> None:
        pass


def duration(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def left(row: dict[str, Any], minutes: float | None) -> float:
    """Seconds that training still takes, by a log row."""
    if minutes is not None:
        return max(0.0, 60 * minutes - row["seconds"])
    return max(0.0, ((row["images"] or row["seen"]) - row["seen"]) / max(1e-9, row["rate"]))


def losses(row: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in row["terms"].items() if value is not None)


class Bar:
    """A rich progress bar with rate, time left and the players' losses; lines at each tenth where there is no terminal."""

    def __init__(self, minutes: float | None = None):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self.minutes, self.tenth = minutes, -1
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
            TextColumn("{task.fields[rate]}  {task.fields[left]}  {task.fields[losses]}"),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
        self.task = self.progress.add_task("training", total=1.0, rate="", left="", losses="", visible=False)

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def show(self, row: dict[str, Any]) -> None:
        """A log row on the bar; without a terminal a line whenever another tenth is done."""
        rate, rest = f"{row['rate']:,.0f}/s", f"{duration(left(row, self.minutes))} left"
        self.progress.update(
            self.task, completed=row["progress"], rate=rate, left=rest, losses=losses(row), visible=True
        )
        tenth = int(row["progress"] * 10 + 1e-9)
        if not self.console.is_terminal and tenth > self.tenth:
            self.tenth = tenth
            self.say(f"{row['progress']:4.0%}  {row['seen']:,} examples  {rate}  {rest}  {losses(row)}")


class Board:
    """TensorBoard beside another display: losses, signals and the sample grids, in <run>/tensorboard."""

    def __init__(self, inner: Display, folder: Any):
        from .errors import MissingExtra

        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra("TensorBoard", "tensorboard") from None
        self.inner, self.folder = inner, folder
        self.writer = SummaryWriter(folder.path / "tensorboard")

    def say(self, text: str) -> None:
        self.inner.say(text)

    def show(self, row: dict[str, Any]) -> None:
        import numpy as np
        from PIL import Image

        self.inner.show(row)
        for group in ("terms", "signals"):
            for name, value in row[group].items():
                if value is not None:
                    self.writer.add_scalar(f"{group}/{name}", value, row["seen"])
        with Image.open(self.folder.samples / "latest.png") as sheet:
            self.writer.add_image("samples", np.asarray(sheet.convert("RGB")), row["seen"], dataformats="HWC")
        self.writer.flush()
