"""What a checkpoint holds of a run beside its runner: counts, evaluations, places in files."""

import msgspec


class SeedRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one seed."""

    episodes: int
    updates: int
    recent: list[float]  # returns
    best_return: float | None  # None: no evaluation yet
    newest_return: float | None  # of the newest evaluation
    solved_at: tuple[int, float] | None
    pending: list[tuple[int, float]]  # steps and seconds of evaluations that were not made yet
    sizes: tuple[int, int, int]  # of the files of figures, bytes


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of all seeds that are trained together."""

    steps: int
    seconds: float
    evaluated: int  # the step of the newest evaluation
    seeds: list[SeedRecord]
