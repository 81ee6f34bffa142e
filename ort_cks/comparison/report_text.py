"""A comparison as lines for a terminal."""

from collections import Counter

from ort_cks.comparison.result import ComparisonResult, Contender


def render(result: ComparisonResult) -> str:
    lines = [
        f"{result.model} against {result.rewritten}",
        f"machine    {_machine(result)}",
        *(f"input      {name}: {text}" for name, text in result.inputs.items()),
        *(f"note       {note}" for note in result.notes),
        f"precision  {result.precision} on {result.provider}{', CUDA graph' if result.cuda_graph else ''}",
        "",
        *_latencies(result),
        "",
        *_errors(result),
        "",
        placement(result),
        verdict(result),
    ]
    return "\n".join(lines)


def _machine(result: ComparisonResult) -> str:
    facts = result.machine.items()
    return ", ".join(value if name == "machine" else f"{name} {value}" for name, value in facts)


def _latencies(result: ComparisonResult) -> list[str]:
    lines = [f"{'ms':<18}{'min':>10}{'p50':>10}{'p90':>10}{'p99':>10}"]
    for contender in (result.ours, *result.baselines):
        if contender.latency is None:
            what = "baseline " if contender is not result.ours else ""
            lines.append(f"{contender.label:<18}{what}failed: {contender.failure}")
            continue
        latency = contender.latency
        numbers = (latency.min_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms)
        lines.append(f"{contender.label:<18}" + "".join(f"{number:>10.3f}" for number in numbers))
    return [*lines, speedup(result)]


def speedup(result: ComparisonResult) -> str:
    if result.speedup is None:
        return "speed-up: none, because one side did not run"
    rounds = len(result.ours.latency.runs_ms)
    return (
        f"speed-up {result.speedup:.2f}x (p50 of '{result.baseline.label}' over p50 of 'ours', "
        f"{rounds} rounds in turn after {result.warmup} for warm-up)"
    )


def _errors(result: ComparisonResult) -> list[str]:
    lines = [
        f"errors against {result.reference}; share: of the root mean square of the output",
        f"{'output':<18}{'':<18}{'largest':>12}{'share':>12}{'beyond':>10}{'NaN, Inf':>10}",
    ]
    for contender in (result.ours, result.baseline):
        for output in contender.outputs:
            numbers = (
                f"{output.max_abs:>12.2e}{output.relative:>12.2e}{output.beyond:>10}{output.nonfinite:>10}"
            )
            lines.append(f"{output.name:<18}{contender.label:<18}{output.problem or numbers}")
    return lines


def placement(result: ComparisonResult) -> str:
    ran = result.ran_in_our_ops
    if not ran:
        return f"nodes      none of {len(result.nodes)} convolutions ran in an ort_cks operator"
    kinds = ", ".join(f"{count} {op}" for op, count in Counter(node.ran_as for node in ran).items())
    providers = ", ".join(sorted({node.provider for node in ran}))
    share = f"{len(ran)} of {len(result.nodes)} convolutions"
    return f"nodes      {share} ran in ort_cks operators on {providers} ({kinds})"


def verdict(result: ComparisonResult) -> str:
    bound = f"|error| <= {result.tolerance}"
    if result.ours.failure is not None:
        return "the rewritten model did not run"
    if result.ok:
        return f"outputs are equal within {bound}"
    return f"OUTPUTS DIFFER: {differences(result.ours)} beyond {bound}"


def differences(contender: Contender) -> str:
    bad = [output for output in contender.outputs if not output.ok]
    return "; ".join(
        f"{output.name}: {output.problem or f'{output.beyond} of {output.count} elements'}" for output in bad
    )
