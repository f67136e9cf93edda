"""`python -m benchmarks.soak [SCENARIO...]`: each scenario prints what it does and, last, one line of JSON."""

import json
import os
import sys

from benchmarks.soak import sidecar, swap

SCENARIOS = {"swap": swap.main, "sidecar": sidecar.main}


def main(names: list[str]) -> None:
    """Runs the scenarios named, or all. Unknown names end with exit code 2."""
    unknown = sorted(set(names) - set(SCENARIOS))
    if unknown:
        print(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}", file=sys.stderr)
        sys.exit(2)
    for name in names or SCENARIOS:
        print(json.dumps(SCENARIOS[name](os.environ)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
