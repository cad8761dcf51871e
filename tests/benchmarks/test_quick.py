"""Every benchmark's quick form runs to its end and writes flat figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def figures(script: str, folder: Path) -> dict[str, float | str]:
    """Run a script's quick form and return what it wrote."""
    out = folder / "figures.json"
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), "--quick", "--json", str(out)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=one_thread, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written: dict[str, float | str] = json.loads(out.read_text())
    assert {"python", "torch", "cpus"} < written.keys()
    assert all(isinstance(value, int | float | str) for value in written.values())
    return written


def test_quick_consensus_falls_and_keeps_its_mean(tmp_path: Path) -> None:
    written = figures("consensus", tmp_path)
    for cell in ("ring_10pct", "ring_10pct_lossy"):
        assert written[f"monotone_{cell}"] == 1
        assert float(written[f"final_drift_{cell}"]) < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_simulation_of_one_seed_repeats_its_bytes(tmp_path: Path) -> None:
    assert figures("scale", tmp_path)["byte_equal"] == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_daemons_finish_every_round_within_the_budget(tmp_path: Path) -> None:
    written = figures("mesh", tmp_path)
    assert written["nodes_finished_ring_merging_5"] == written["nodes_started_ring_merging_5"] == 4
    assert float(written["models_max_ring_merging_5"]) <= 0.005


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_idle_daemons_stay_small(tmp_path: Path) -> None:
    assert float(figures("idle", tmp_path)["beyond_torch_mb_max"]) < 60


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_transfers_grow_neither_side_by_more_than_a_few_messages(tmp_path: Path) -> None:
    written = figures("transport", tmp_path)
    assert float(written["rss_growth_mb"]) < 32
    assert {"plain_cpu_over_tcp", "tls_cpu_over_tls"} < written.keys()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_billion_stays_in_bounded_memory(tmp_path: Path) -> None:
    written = figures("billion", tmp_path)
    assert max(float(written["publisher_anon_gb"]), float(written["follower_anon_gb"])) < 1.5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_accuracy_writes_flat_figures(tmp_path: Path) -> None:
    assert figures("accuracy", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_selection_writes_what_a_copy_and_topk_compare_with(tmp_path: Path) -> None:
    written = figures("selection", tmp_path)
    assert {"select_over_memcpy", "topk_over_select", "compress_over_memcpy"} < written.keys()
    assert float(written["approximate_off"]) < 0.05


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_merging_measures_our_side_without_mergekit(tmp_path: Path) -> None:
    written = figures("merging", tmp_path)
    assert {"linear_cpu", "ties_cpu", "ties_rss", "sparse5_cpu", "elementwise_over_memcpy"} < written.keys()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_merging_quality_scores_base_average_methods_and_individual_in_order(tmp_path: Path) -> None:
    written = figures("merging_quality", tmp_path)
    assert float(written["digits_base"]) < float(written["digits_average"]) < float(written["digits_individual"])
    assert float(written["digits_drift_weighted-mean_own"]) < 1e-5
    assert float(written["digits_drift_ties_own"]) < float(written["digits_drift_ties_base"])
