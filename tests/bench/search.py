"""How good is the search? `make bench ONLY=search DATA=...` takes hours; a later call resumes it.

    python -m tests.bench.search [--data PATH] [--families A B] [--settings 24] [--seeds 100]

For each family, prints the table of ranks and writes to reports/bench what was recorded
(fidelity-A.json) and the regrets of simulated searches (regret-A.json and .png).
"""

import argparse
from pathlib import Path

import optuna

from agegender import disk
from agegender.data import pixels
from agegender.networks import backend
from tests.bench import fidelity, regret

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Record and simulate one family after the other; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--families", nargs="+", choices=fidelity.EPOCHS, default=["A", "B"])
    parser.add_argument("--settings", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=100)
    arguments = parser.parse_args()
    backend.prepare()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cache, out = ROOT / ".cache", ROOT / "reports" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    faces = pixels.open_faces(pixels.prepare(arguments.data, cache / "data", seed=0))
    for letter in arguments.families:
        path = out / f"fidelity-{letter}.json"
        rows = fidelity.record(letter, faces, arguments.settings, path, cache)
        ranks = fidelity.compare_ranks(rows)
        print(ranks.to_string(index=False, float_format="%.3f"), flush=True)
        found = regret.regrets(letter, rows, arguments.seeds, cache)
        disk.write(out / f"regret-{letter}.json", found.to_json(orient="records"))
        regret.draw(found).savefig(out / f"regret-{letter}.png")
        table = found.groupby(["minutes", "algorithm"])["regret"].agg(["mean", "sem", "median"])
        print(table.to_string(float_format="%.4f"), flush=True)


if __name__ == "__main__":
    main()
