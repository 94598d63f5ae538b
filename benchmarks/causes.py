"""Misfortunes that `misfortune` tries, the runs that can have them, and how these must end."""

import dataclasses

HOST = (
    "benchmarks.unlucky:benchmarks/Unlucky-v0 --steps {steps} --chunk-steps 500 "
    "--replay-capacity 4000 --evaluation-every 2000 --vectorization "
)
WORKS = {
    "device": "catcher --steps {steps} --chunk-steps 2000 --replay-capacity 4000 "
    "--evaluation-every 4000",
    "sync": HOST + "sync",
    "subprocess": HOST + "subprocess --step-timeout 5",
    "own": HOST + "own",
}
"""Arguments of trainings: by the device runner, and by the host runner with each vectorization."""

STEPS = {"device": 12_000, "sync": 8_000, "subprocess": 8_000, "own": 8_000}
LIMIT = 10.0  # seconds from the cause to the end
HANG = 5.0  # seconds of the option --step-timeout
DEADLINE = 600.0


@dataclasses.dataclass(frozen=True)
class Cause:
    """A misfortune, and how a run must end by it."""

    works: tuple[str, ...]
    codes: tuple[int, ...]
    line: str = ""  # a pattern of the line that tells
    allowed: float = LIMIT  # seconds


ALL = tuple(WORKS)
GYM = ("sync", "subprocess", "own")
FAILED = r"noisydqn: .*; what was trained until then is in "
STOPPED = r"(after [\d,]+ steps; .*|before the first step; )to (resume|train): "
CAUSES = {
    "SIGINT": Cause(ALL, (130, -2), STOPPED),
    "SIGTERM": Cause(ALL, (143, -15), STOPPED),
    "SIGHUP": Cause(ALL, (129, -1), STOPPED),
    "SIGINT twice": Cause(ALL, (130, -2), f"noisydqn: interrupted|{STOPPED}"),
    "SIGKILL": Cause(ALL, (-9,)),
    "terminal closed": Cause(("device", "sync"), (129, -1)),
    "output full": Cause(ALL, (0,), "", DEADLINE),
    "output closed": Cause(ALL, (0,), "", DEADLINE),
    "disk full": Cause(("device", "sync"), (1,), "noisydqn: .* cannot be written: ", DEADLINE),
    "folder removed": Cause(ALL, (0,), "was removed while it was trained", DEADLINE),
    "folder renamed": Cause(ALL, (0,), "", DEADLINE),
    "table damaged": Cause(ALL, (143, -15), STOPPED),
    "raise": Cause(GYM, (1,), FAILED),
    "reset": Cause(("sync", "subprocess"), (1,), FAILED),
    "exit": Cause(GYM, (1,), FAILED),
    "nan": Cause(GYM, (1,), FAILED),
    "interrupt": Cause(("sync", "own"), (130,), STOPPED),
    "close raises": Cause(("sync", "subprocess"), (1,), "a cable is loose"),
    "close hangs": Cause(("subprocess",), (1,), "a cable is loose"),
    "killed": Cause(("subprocess",), (1,), "was killed by SIGKILL"),
    "segfault": Cause(("subprocess",), (1,), "was killed by SIGSEGV"),
    "dies": Cause(("subprocess",), (1,), "ended with exit code 3"),
    "hangs": Cause(("subprocess",), (1,), "hangs: no answer within 5 s", LIMIT + HANG),
    "evaluation": Cause(("sync", "own"), (1,), FAILED),
    "callback": Cause(ALL, (1,), "the callback Called failed in on_chunk after .*" + FAILED[12:]),
    "tracker": Cause(ALL, (0,), "the tracker _Tracker failed in chunk after ", DEADLINE),
}
"""Misfortunes, the works that can have them, and what is expected."""

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGINT twice", "SIGKILL", "table damaged")
FROM_OUTSIDE = (*SIGNALS, "terminal closed", "output closed", "folder removed", "folder renamed")

LOST = {
    "folder removed": ("metrics", "episodes", "evaluations"),
    "disk full": ("metrics", "episodes", "evaluations"),
}
"""Tables that the cause may cut."""


def pairs(causes: list[str]) -> list[tuple[str, str]]:
    """List the causes with the works that can have them."""
    return [(cause, work) for cause in causes for work in CAUSES[cause].works]
