"""What a benchmark returns."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Comparison:
    """Our measurement beside a peer's, or beside a limit we set ourselves."""

    name: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    target: float | None  # the ratio we want at least; None: only to know
    more_is_better: bool = True  # False for seconds and memory

    @property
    def ratio(self) -> float:
        """How many times better we are."""
        return self.ours / self.peer if self.more_is_better else self.peer / self.ours

    def row(self) -> dict[str, object]:
        """For the JSON file."""
        row = asdict(self) | {"ratio": self.ratio}
        del row["more_is_better"]
        return row

    def __str__(self) -> str:
        return (
            f"ours {self.ours:,.4g} {self.unit}, {self.peer_name} {self.peer:,.4g}: ratio {self.ratio:.2f} "
            f"({'no target' if self.target is None else f'at least {self.target:g}'})"
        )
