"""Students against the published smaller siblings of their teacher, at the siblings' measured latencies.

    python benchmarks/family.py RUN --sibling resnet20=PATH/resnet_cifar.py:resnet20,PATH/resnet20.safetensors …

RUN is a finished run (`lana compress … --out RUN`), whose pool is used. Every contender gets the same epochs of the
same distillation, the teacher included. Rows that are there already under --out are not computed again.
"""

from __future__ import annotations

from pathlib import Path

import click
from contenders import (
    Contender,
    as_it_is,
    begin,
    difference,
    in_words,
    leave,
    measure,
    sibling,
    student,
    table,
    tune,
    tuning_options,
    write_results,
)

from lana.pipeline import open_finished


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--sibling", "siblings", multiple=True, help="NAME=MODEL,WEIGHTS")
@click.option("--ratio", "ratios", type=float, multiple=True, help="Further shares of the teacher's latency.")
@click.option("--batch", "batches", type=int, multiple=True, help="Also measured at this batch.")
@tuning_options
@click.option("--published", is_flag=True, help="Siblings and the teacher as they are, which tuning may harm.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/family"))
def main(
    run: Path,
    siblings: tuple[str, ...],
    ratios: tuple[float, ...],
    batches: tuple[int, ...],
    epochs: float,
    seeds: int,
    published: bool,
    compile: bool,
    elsewhere: bool,
    out: Path,
) -> None:
    with open_finished(run) as (context, baseline, pool, search):
        begin(out, context)
        teacher = Contender(name="teacher", kind="teacher", module=context.teacher.module)
        family = [sibling(context, text) for text in siblings]
        measure(context, [teacher, *family])
        for one in family:
            print(f"{one.name}: {one.ratio:.3f}x of the teacher's latency", flush=True)
        matched = [student(context, baseline, pool, search, one.ratio, matched=one.name) for one in family]
        further = [student(context, baseline, pool, search, ratio) for ratio in ratios]
        measure(context, [teacher, *family, *matched, *further], batches=batches)
    contenders = [*further, *family, *matched, teacher]
    as_published = [one for one in contenders if published and one.kind != "lana"]
    if elsewhere:
        tuned = [one for one in contenders if one not in as_published]
        leave(tuned, out / "tuned", epochs=epochs, seeds=seeds)
        return
    for seed in range(seeds):
        for one in contenders:
            if one in as_published:
                as_it_is(context, one)
            else:
                tune(context, one, epochs=epochs, seed=seed, folder=out / "tuned", compile=compile)
            write_results(out / "family.json", contenders, {"run": str(run), "epochs": epochs})
    print(table(contenders))
    for one, ours in zip(family, matched, strict=True):
        gain = difference(ours, one)
        gap = teacher.accuracy - one.accuracy
        closed = f"{gain[0] / gap:.0%} of the gap of {gap:.2%} to the teacher closed" if gap > 0 else "no gap to close"
        print(f"at {one.name}'s latency: {in_words(gain)}, {closed}")
        for faster in (each for each in further if each.ratio <= one.ratio):
            print(f"{faster.name}, faster, less {one.name}: {in_words(difference(faster, one))}")
    for other in further:
        print(f"{other.name} less the teacher: {in_words(difference(other, teacher))}")


if __name__ == "__main__":
    main()
