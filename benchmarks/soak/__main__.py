"""`python -m benchmarks.soak [SCENARIO...]`: each scenario prints what it does and, last, one line of JSON."""

import json
import os
import sys
from functools import partial

from benchmarks.soak import canary, loading, sidecar, swap

SCENARIOS = {name: partial(swap.main, scenario) for name, scenario in swap.SCENARIOS.items()} | {
    "canary": canary.main,
    "loading": loading.main,
    "sidecar": sidecar.main,
}


def main(names: list[str]) -> None:
    """Runs the scenarios named, or `swap` alone. Unknown names end with exit code 2."""
    unknown = sorted(set(names) - set(SCENARIOS))
    if unknown:
        print(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}", file=sys.stderr)
        sys.exit(2)
    for name in names or ["swap"]:
        print(json.dumps(SCENARIOS[name](os.environ)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
