"""The slowdown table, and what it is held to."""

from __future__ import annotations

from typing import Any

IDLE_MAX = 1.005
TO_RAW_COLLECTOR_MAX = 1.05

#: Per aim: its text, the modes that it is about, the ratio that counts, and the limit.
AIMS = (
    ("idle costs at most 0.5 %", ("idle", "polling"), "to_nothing", IDLE_MAX),
    (
        "recording costs at most 5 % more than the raw collector",
        ("recording-injected", "recording-in-process", "recording-run"),
        "to_raw_collector",
        TO_RAW_COLLECTOR_MAX,
    ),
    (
        "recording costs less than torch.profiler (device activities alone)",
        ("recording-injected", "recording-in-process"),
        "to_torch_profiler",
        1.0,
    ),
)


def judged(rows: list[dict[str, Any]], simulated: bool) -> list[dict[str, Any]]:
    """Each aim for each row that it is about. Simulated times are no one's."""
    verdicts = []
    for aim, modes, key, limit in AIMS:
        for row in rows:
            about_torch = row["workload"].startswith("decode-")
            if row["mode"] not in modes or (key == "to_torch_profiler" and not about_torch):
                continue
            value = row[key]
            if simulated:
                verdict = "not judged: simulated"
            elif value is None:
                verdict = "no data"
            else:
                verdict = "pass" if value <= limit else "fail"
            verdicts.append(
                {
                    "aim": aim,
                    "workload": row["workload"],
                    "mode": row["mode"],
                    "limit": limit,
                    "value": value,
                    "range": row[f"{key}_range"],
                    "verdict": verdict,
                }
            )
    return verdicts


def text(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]], simulated: bool) -> str:
    """Both as a person reads them."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    lines = ["SIMULATED: times mean nothing here"] if simulated else []
    lines.append(
        f"{'workload':<14} {'mode':<22} {'rounds':>6} {'ns/item':>13}"
        f" {'/nothing':>9} {'/raw':>9} {'/profiler':>9}"
    )
    for row in rows:
        ns = "-" if row["ns_per_item"] is None else f"{row['ns_per_item']:.1f}"
        ratios = " ".join(
            f"{number(row[key]):>9}"
            for key in ("to_nothing", "to_raw_collector", "to_torch_profiler")
        )
        lines.append(
            f"{row['workload']:<14} {row['mode']:<22} {row['rounds']:>6} {ns:>13} {ratios}"
        )
    lines.append("")
    for verdict in verdicts:
        lines.append(
            f"{verdict['verdict']:<22} {verdict['workload']:<14} {verdict['mode']:<22}"
            f" {number(verdict['value'])} <= {verdict['limit']}  {verdict['aim']}"
        )
    return "\n".join(lines)
