"""Rewrites two small architectures, compares them with the originals and ends with a table.

``make demo`` runs it. What stands above the table is printed by the two commands, run as a user would do it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import models
import onnx


def run(*command: str) -> None:
    print(f"\n$ python -m {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where the models are written")
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)

    rows = []
    for name, build in (("dcgan_generator", models.dcgan_generator), ("aspp_head", models.aspp_head)):
        path, rewritten, report = (folder / f"{name}{suffix}" for suffix in (".onnx", ".cks.onnx", ".json"))
        onnx.save(build(), path)
        run("ort_cks.rewrite", str(path), "-o", str(rewritten))
        run("ort_cks.compare", str(path), str(rewritten), "--json", str(report))
        rows.append((name, json.loads(report.read_text())))

    columns = ("model", "ONNX Runtime ms", "ort_cks ms", "speed-up", "largest error", "nodes in our ops")
    print("\n{:<18}{:>17}{:>12}{:>10}{:>15}{:>18}".format(*columns))
    for name, r in rows:
        baseline, ours = r["baseline"], r["ours"]
        print(
            f"{name:<18}{baseline['p50_ms']:>17.2f}{ours['p50_ms']:>12.2f}{r['speedup']:>9.2f}x"
            f"{ours['max_error']:>15.1e}{r['nodes_in_our_ops']:>18}"
        )


if __name__ == "__main__":
    main()
