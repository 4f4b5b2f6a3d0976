"""`pink.card`: what a dataset is, how it was made, what was lost on the way, and how good it is."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio.to_thread
import yaml

from engine import Context, OutputPath, stage
from engine_pink_elephant import census, diversity, vectors
from engine_pink_elephant.census import Carded, Census
from engine_pink_elephant.markdown import bullets, count, line, percent, size, table, wilson
from engine_pink_elephant.prompts import templates

__all__ = ["card"]

TOKEN = 4
"""Characters that are taken for a token."""
TAGS = ("preference", "dpo", "synthetic", "pink-elephant")
CALLS = "## Calls and cost"

WHAT = """\
Each row is a conversation between a user and an agent on two contrasting things. The user begins \
with the one that the agent is to keep to (`desired`), drifts, and in the last turn asks about the \
other (`pink`: do not think of a pink elephant). The agent's last turn is there twice: as it was \
first written, naming the pink term, and revised, so that it helps with the desired term and says \
nothing of the other. All turns before it are the same, character by character. The principle, a \
system message, says what the agent is to keep to."""

WHAT_NOT = (
    "Nobody held these conversations: language models wrote all turns.",
    "Nothing that is said of products, places, money or health has been checked.",
    "A revised answer keeps a rule; it is not better advice than the original. Where the pink term "
    "would have been the honest answer, it is withheld on purpose.",
    "A model that is trained on these rows alone, without rows that have no such rule, may learn "
    "to avoid the terms rather than to obey the principle.",
)
LIMITS = (
    "Names are found by their spelling: aliases, inflections and disguised letters of the terms "
    "that each pair lists. A term under a name that is not listed, or a hint at it, is seen only "
    "where a judge looked.",
    "Near-duplicates are found by common wording; the same conversation in other words stays.",
    "Models that write have views: what they know of a term, and which terms they think of, is "
    "theirs.",
)
AUDITED = {
    "natural_shift": ("the user comes to the pink term as people do", True),
    "useful_answer": ("the revised answer helps with what was asked for", True),
    "natural_return": ("the revised answer comes back to the desired term without force", True),
    "judged_mention": ("the revised answer still mentions the pink term", False),
    "agreement": ("the list of names says the same on that (rows with names only)", True),
}
COUNTED = {
    "kind": "Kinds of pairs",
    "pair_origin": "Where the pairs come from",
    "origin": "Where the last turns come from",
    "verdict": "Who found that the revision does not mention the pink term",
    "continued": "Revised in the conversation that wrote the dialogue",
}


@stage("pink.card")
async def card(
    rows: AsyncIterable[Carded],
    *,
    path: OutputPath,
    title: str | None = None,
    license: str | None = None,
    languages: tuple[str, ...] = ("en",),
    tags: tuple[str, ...] = TAGS,
    files: dict[str, str] | None = None,
    embedding: vectors.Name | None = None,
    ctx: Context,
) -> None:
    """Write the dataset's card, in Markdown, with the front matter that the Hub reads.

    It counts what every stage that leads here took, passed on and rejected, and tells splits,
    audits, diversity, lengths, prompts, models and cost. Calls are those of this run: where it paid
    for none, and all else is as it was, a card that is there already is left alone.

    - `path`: the file, `README.md` for the Hub; it appears when it is complete.
    - `title`: what stands above; left out, the pipeline's name.
    - `license`: the licence, as the Hub spells it: `mit`, `cc-by-4.0`.
    - `languages`: the languages of the texts (ISO 639-1).
    - `tags`: the card's tags.
    - `files`: the name of each part that `load_dataset` is to know -> its file, from the card's
      folder: `{preference: preference.parquet}`.
    - `embedding`: what vectors for diversity come from, as in `pink.plans`; left out, hashed
      4-grams of characters, which see copied wording and are blind to paraphrase.
    """
    seen = Census(ctx.seed)
    async for row in rows:
        seen.add(row)
    front = {
        "pretty_name": line(title or ctx.pipeline or "Pink Elephant"),
        **({"license": license} if license else {}),
        "language": list(languages),
        "task_categories": ["text-generation"],
        "tags": list(tags),
        "size_categories": [size(seen.rows)],
        "configs": [{"config_name": n, "data_files": f} for n, f in (files or {}).items()],
    }
    text = await anyio.to_thread.run_sync(_text, front, seen, ctx, license, embedding)
    _write(path, text, paid=any(a.counters.calls for a in ctx.upstream.values()))


def _write(path: Path, text: str, *, paid: bool) -> None:
    """Put the card in its place, unless one is there that differs in what earlier runs paid."""
    if path.is_file():
        before = path.read_text("utf-8", "replace")
        if before == text or (not paid and _but_for_calls(before) == _but_for_calls(text)):
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, "utf-8", "replace")
    temporary.replace(path)


def _but_for_calls(text: str) -> str:
    return re.sub(rf"(?ms)^{CALLS}$.*?(?=^## |\Z)", "", text)


def _text(
    front: Mapping[str, Any],
    seen: Census,
    ctx: Context,
    license: str | None,
    embedding: str | Path | None,
) -> str:
    """Return the card; what it depends on beyond its arguments is the plugin's prompt files."""
    kept = {name: value for name, value in front.items() if value}
    head = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{head}---",
        f"# {front['pretty_name']}",
        WHAT,
        f"{count(seen.rows, 'row')}, made by the pipeline `{ctx.pipeline}` with `st-engine` from "
        f"the seed {ctx.seed}. Licence: {line(license) if license else 'none was stated'}.",
        *_example(seen),
        "## What it is not",
        bullets(WHAT_NOT),
        *_stages(ctx),
        *_parts(seen),
        *_counted(seen),
        *_audits(seen),
        *_diversity(seen, embedding),
        *_lengths(seen),
        *_calls(seen, ctx),
        *_writers(seen),
        *_prompts(),
        "## Known limits",
        bullets([*LIMITS, *_own_limits(seen)]),
    ]
    return "\n\n".join(parts) + "\n"


def _example(seen: Census) -> Iterator[str]:
    """Yield the last turns of a row."""
    if seen.example:
        desired, pink, asked, original, revised = map(line, seen.example)
        yield f"For example, on **{desired}** (desired) and **{pink}** (pink):"
        told = {"The user": asked, "The agent, first": original, "The agent, revised": revised}
        yield "\n>\n".join(f"> **{who}:** {said}" for who, said in told.items())


def _stages(ctx: Context) -> Iterator[str]:
    """Yield how many rows each stage took and passed on, and why it rejected others."""
    if not ctx.upstream:
        return
    lines, reasons = [], []
    for key, (name, counters) in ctx.upstream.items():
        lost = counters.rejected + counters.rejected_children
        tried = max(counters.received, counters.yielded, counters.out)
        numbers = (counters.received, counters.out, lost, counters.dead)
        lines.append([f"`{key}`", f"`{name}`", *(f"{n:,}" for n in numbers)])
        for reason, many in _ordered(counters.reasons):
            if not reason.startswith("dead: "):  # an exception's words may hold a path
                reasons.append([f"`{key}`", f"`{line(reason)}`", f"{many:,}", percent(many, tried)])
    yield "## How it was made"
    yield "The stages, in order: the rows that each took in and passed on, and those it dropped."
    yield table(["stage", "what", "in", "out", "rejected", "dead"], lines)
    if reasons:
        yield "### Why rows were rejected"
        yield "Shares are of the rows that the stage tried."
        yield table(["stage", "reason", "rows", "share"], reasons)


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    """Return what was counted, the commonest first, whatever came first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _parts(seen: Census) -> Iterator[str]:
    """Yield the sizes of the splits, and whether they are apart."""
    split = "" not in seen.parts
    yield "## Splits" if split else "## Size"
    head = ["split", "topics", "pairs", "rows"]
    lines = [[part or "all", *(f"{n:,}" for n in sizes)] for part, sizes in seen.parts.items()]
    yield table(head, lines)
    if len(seen.parts) > 1:
        shared, names = seen.shared
        if shared:
            shown = ", ".join(f"`{line(name)}`" for name in names)
            yield (
                f"**The splits are not apart: they share {count(shared, 'term or alias')}** "
                f"({shown}). What a model does on one of them says little of what it has learnt."
            )
        else:
            yield "No two splits share a term or an alias: counted over all rows, 0."


def _counted(seen: Census) -> Iterator[str]:
    """Yield how many rows are of which kind."""
    lines = []
    for name, said in COUNTED.items():
        for at, (value, rows) in enumerate(_ordered(seen.counts.get(name, Counter()))):
            first = "" if at else said
            lines.append([first, f"`{line(value)}`", f"{rows:,}", percent(rows, seen.rows)])
    if lines:
        yield "## What the rows are"
        yield table(["", "", "rows", "share"], lines)


def _audits(seen: Census) -> Iterator[str]:
    """Yield what a judge said of a sample."""
    yield "## Audit"
    if not seen.audited:
        yield "No judge looked at these rows."
        return
    most = max(answers.total() for answers in seen.audited.values())
    yield (
        f"A language model judged {count(most, 'row')}, drawn at random; intervals are Wilson's, "
        "at 95%. Nobody checked the judge."
    )
    lines = []
    for name, (said, wanted) in AUDITED.items():
        if answers := seen.audited.get(name):
            yes, total = answers[True], answers.total()
            low, high = wilson(yes, total)
            between = f"{100 * low:.1f}% to {100 * high:.1f}%"
            good = "high" if wanted else "low"
            lines.append([said, f"{total:,}", percent(yes, total), between, good])
    yield table(["the judge says that", "rows", "share", "95% interval", "good is"], lines)


def _diversity(seen: Census, embedding: str | Path | None) -> Iterator[str]:
    """Yield how different plans and dialogues are."""
    embed = vectors.load(embedding)
    groups = [diversity.measured(plans, embed) for plans in seen.plans]
    whole = diversity.measured(seen.dialogues, embed)
    lines = []
    if groups:
        texts = sum(group.texts for group in groups)
        mean = [sum(column) / len(groups) for column in zip(*groups, strict=True)]
        name = f"plans within a pair (mean of {count(len(groups), 'pair')})"
        lines.append([name, f"{texts:,}", *(f"{value:.3f}" for value in mean[1:])])
    if whole.texts > 1:
        figures = (f"{value:.3f}" for value in whole[1:])
        lines.append(["dialogues, over all pairs", f"{whole.texts:,}", *figures])
    if not lines:
        return
    by = "hashed 4-grams of characters, which are blind to paraphrase"
    yield "## Diversity"
    yield (
        "Of texts drawn by the seed. Distinct-n is the share of runs of n words that are different "
        "ones; self-BLEU how well the others predict a text (low is good); Vendi how many texts "
        "there are in effect, as a share, around their mean: (n - 1)/n if all n differ. "
        f"Vectors: {f'`{_placeless(embedding)}`' if embedding else by}."
    )
    yield table(["of", "texts", "distinct-1", "distinct-2", "self-BLEU", "Vendi"], lines)


def _lengths(seen: Census) -> Iterator[str]:
    shares = (0.05, 0.5, 0.95)
    lines = [
        [name, f"{spread.mean:.1f}", *(f"{spread.quantile(share):,}" for share in shares)]
        for name, spread in seen.lengths.items()
    ]
    if lines:
        yield "## Lengths and edits"
        yield table(["", "mean", "5%", "median", "95%"], lines)


def _calls(seen: Census, ctx: Context) -> Iterator[str]:
    """Yield what the calls of this run, and of those before it that it goes on from, have taken."""
    paid = {
        (key, model): spent
        for key, stage in ctx.upstream.items()
        for model, spent in stage.counters.in_all.items()
    }
    lines = [
        [
            f"`{key}`",
            f"`{_placeless(model)}`",
            *(f"{n:,}" if n else "" for n in (spent.calls, spent.new, spent.cached, spent.out)),
            f"{spent.cost:.4f}" if spent.cost else "",
        ]
        for (key, model), spent in paid.items()
    ]
    calls, new, out = (
        sum(getattr(spent, name) for spent in paid.values()) for name in ("calls", "new", "out")
    )
    cost = sum(spent.cost for spent in paid.values())
    before = calls - sum(stage.counters.calls for stage in ctx.upstream.values())
    if not lines:
        return
    retries = sum(a.counters.retries for a in ctx.upstream.values())
    refused = sum(a.counters.refused for a in ctx.upstream.values())
    said = "Of the run that wrote this card"
    if before:
        said += (
            f", and of those before it in the same store: {count(before, 'call')} of theirs "
            "(of one that was killed, but for its last seconds)"
        )
    yield CALLS
    yield (
        f"{said}. In the last run {count(retries, 'attempt')} were retries; {refused:,} replies "
        "were refused."
    )
    yield table(["stage", "model", "calls", "tokens new", "cached", "out", "cost"], lines)
    if seen.rows and calls:
        about = f"{calls / seen.rows:.2f} calls a row"
        if new:
            about += f", {new / seen.rows:,.0f} prompt tokens computed for each"
        if out:
            kept = seen.kept / TOKEN
            about += (
                f"; {kept / out:.2f} of the tokens that were written are kept in the rows "
                f"(taking {TOKEN} characters for a token)"
            )
        if cost:
            each = 1000 * cost / seen.rows
            about += f"; cost {cost:.4f} in all, {each:.4f} for 1,000 rows"
        yield f"{about[0].upper()}{about[1:]}."


def _writers(seen: Census) -> Iterator[str]:
    if not seen.writers:
        return
    yield "## Models"
    yield f"What wrote the rows, as {count(min(seen.rows, census.ROWS), 'row')} drawn of them say."
    models: dict[tuple[str, str], list[str]] = {}
    for writer in sorted(seen.writers):
        models.setdefault((writer.name, writer.identity), []).append(f"`{line(writer.stage)}`")
    lines = [
        [f"`{_placeless(name)}`", ", ".join(stages), f"`{_placeless(identity)}`"]
        for (name, identity), stages in models.items()
    ]
    yield table(["model", "stages", "identity"], lines)


def _prompts() -> Iterator[str]:
    """Yield the digests of the plugin's prompts, by which an equal set of them is known."""
    found = [(name, one, _sha256(str(one.leaf))) for name, one in templates().items()]
    whole = _sha256("".join(digest for _, _, digest in found))
    yield "## Prompts"
    yield (
        f"All prompt files of the plugin, with the first digits of the SHA-256 of what stands "
        f"below their heads; of all these digests in order it is `{whole}`."
    )
    lines = [[f"`{n}.md`", f"`{t.id}`", t.version, f"`{digest[:16]}`"] for n, t, digest in found]
    yield table(["file", "id", "version", "digest"], lines)


def _own_limits(seen: Census) -> Iterator[str]:
    """Yield limits that these rows have."""
    longest = seen.lengths["words of a dialogue"].quantile(0.95)
    yield (
        "TRL cuts a row at `max_length` tokens, 1,024 unless told otherwise, and what it cuts is "
        f"the last turn, which is what counts here: 95% of the dialogues have up to {longest:,} "
        "words."
    )
    if forced := sum(n for origin, n in seen.counts["origin"].items() if origin != "model"):
        yield (
            f"In {count(forced, 'row')} ({percent(forced, seen.rows)}) the first words of a last "
            "turn were put in the model's mouth; `origin` says which."
        )
    if set(seen.counts["kind"]) - {"competitor"}:
        yield "Whether a description is mentioned was for a judge to say, not for a list of names."


def _placeless(name: str | Path) -> str:
    """Return a model's name or identity without the folders that it lies in on this machine."""
    return line(re.sub(r"(?<!\S)(?:[A-Za-z]:)?[/\\](?:[^\s/\\]+[/\\])*", "", str(name)))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
