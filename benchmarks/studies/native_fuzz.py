"""Random and mutated bytes by the million against the native engine's readers: writes docs/studies/native-fuzz.md."""

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "studies" / "native-fuzz.md"
DONE = re.compile(r"test result: ok\. (\d+) passed; 0 failed")


@dataclass(frozen=True)
class Target:
    """Tests whose name has `name` in the test program `program`, with so many cases of each."""

    what: str
    program: str
    name: str
    cases: int


TARGETS = (
    Target(
        "requests: parse, route, shape, read, input rules; arbitrary and edited bytes", "values", "hostile", 4_000_000
    ),
    Target("tap: random records there and back, damaged rings read", "tap", "random", 1_000_000),
)


@dataclass(frozen=True)
class Run:
    """What a target came to."""

    target: Target
    tests: int
    seconds: float

    @property
    def cases(self) -> int:
        """All cases of all of its tests."""
        return self.tests * self.target.cases


def run(target: Target) -> Run:
    """Runs one target to its end. Raises RuntimeError where a case fails."""
    command = ["cargo", "test", "--profile", "fuzz", "--locked", "--test", target.program]
    subprocess.run([*command, "--no-run"], cwd=ROOT / "native", check=True)
    began = time.monotonic()
    done = subprocess.run(
        [*command, target.name],
        cwd=ROOT / "native",
        env=os.environ | {"TICKSERVE_CASES": str(target.cases)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = DONE.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"{target.what}: a case fails\n{done.stdout}\n{done.stderr}")
    return Run(target, int(found[1]), time.monotonic() - began)


def report(runs: list[Run]) -> str:
    """The page that is committed."""
    total = sum(each.cases for each in runs)
    lines = [
        "# Random bytes against the native engine",
        "",
        f"Written by `make studies`: {total:,} cases, no crash, no panic, no overflow. The build is optimised, with",
        "overflow checks and debug assertions on (profile `fuzz`). `make test` runs the same tests with fewer cases.",
        "",
        "| what | tests | cases | seconds |",
        "|---|---|---|---|",
        *(f"| {each.target.what} | {each.tests} | {each.cases:,} | {each.seconds:.0f} |" for each in runs),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs every target and writes the report."""
    REPORT.write_text(report([run(target) for target in TARGETS]))
    print(f"written: {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
