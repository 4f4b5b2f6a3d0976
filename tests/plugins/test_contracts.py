"""Our own plugins keep to the contract that a stranger's tests inherit."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
from engine_train.models import Models
from engine_train.positions import Span
from engine_train.rewards import Tokens
from engine_train.workers import Trainer

from engine import Context
from engine.rows import Row
from engine.testing import Blob, Example, FakeChat, PluginContract

PAIR = {
    "topic": "hot drinks",
    "desired": "tea",
    "pink": "coffee",
    "aliases_desired": ["green tea"],
    "aliases_pink": ["espresso", "latte"],
    "case_sensitive": False,
    "ambiguous": False,
    "kind": "competitor",
    "why": "One is stronger.",
    "pair_origin": "model",
}
PLAN = {
    "plan": "A student asks about tea first. At the end the student asks about coffee.",
    "opening": "I am thinking about tea.",
    "shift": "What about coffee",
}
TURNS = (
    "I am thinking about tea. Which one is best?",
    "Green tea is mild and cheap.",
    "What about coffee? Is it stronger?",
    "Yes, coffee is stronger. A latte is mild.",
)
SAID: dict[str, Any] = {
    "origin": "model",
    "dialogue": [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant") * 2, TURNS, strict=True)
    ],
    "call": [],
    "script": "",
    "written_by": "a model",
}
REVISED = "Yes, black tea is stronger. A green tea is mild."
MADE = {
    "critique": "It names coffee.",
    "quotes": ["coffee is stronger"],
    "revision": REVISED,
    "revised": [*SAID["dialogue"][:-1], {"role": "assistant", "content": REVISED}],
    "continued": False,
    "verdict": "lexical",
    "split": "train",
    "principle": "Speak of tea.",
}
NAMES = (
    '{"aliases_desired": [], "aliases_pink": ["espresso"], "case_sensitive": false, '
    '"ambiguous": false, "why": "One is stronger."}'
)


def row(*parts: Mapping[str, Any], **more: Any) -> list[Row | Mapping[str, Any]]:
    return [dict(item for part in (*parts, more) for item in part.items())]


class TestPink(PluginContract):
    plugin = "pink"

    def examples(self, folder: Path) -> Mapping[str, Example]:
        dialogue = [" Which one is best?", " Green tea is mild and cheap."]
        dialogue += ["? Is it stronger?", f" {TURNS[-1]}"]
        both = {"quotes": MADE["quotes"], "critique": MADE["critique"], "revision": REVISED}
        opinion = dict.fromkeys(("natural_shift", "useful_answer", "natural_return"), True)
        done = row(PAIR, PLAN, SAID, MADE)
        return {
            "pink.topics": Example(count=1, llm=FakeChat(["birds"])),
            "pink.pairs": Example(
                [{"topic": "hot drinks"}], per_topic=1, llm=FakeChat(["mead - cider"])
            ),
            "pink.aliases": Example(row(PAIR, why=""), llm=FakeChat([NAMES])),
            "pink.unique_pairs": Example(row(PAIR)),
            "pink.split": Example(
                [*row(PAIR), *row(PAIR, topic="pets", desired="cats", pink="dogs")], validation=0
            ),
            "pink.plans": Example(
                row(PAIR), per_pair=1, llm=FakeChat([" Then the user asks about coffee."])
            ),
            "pink.dialogue": Example(row(PAIR, PLAN), llm=FakeChat(dialogue)),
            "pink.critique": Example(
                row(PAIR, SAID), llm=FakeChat([" speak of tea, and not of coffee."])
            ),
            "pink.revision": Example(
                row(PAIR, SAID, critique="Speak of tea."), llm=FakeChat([REVISED])
            ),
            "pink.critique_revision": Example(row(PAIR, SAID), llm=FakeChat([json.dumps(both)])),
            "pink.contrast": Example(row(PAIR, SAID), llm=FakeChat([REVISED])),
            "pink.audit": Example(
                row(PAIR, SAID, MADE),
                fraction=1.0,
                judge=FakeChat([json.dumps(opinion | {"mentions": False})]),
            ),
            "pink.principle": Example(row(PAIR, split="train")),
            "pink.dedup": Example(done),
            "pink.preference": Example(done),
            "pink.sft": Example(done),
            "pink.kto": Example(done),
            "pink.card": Example(done, path=folder / "README.md"),
            "pink.browse": Example(done, path=folder / "page.html"),
        }


class TestMcts(PluginContract):
    plugin = "mcts"


class TestSae(PluginContract):
    plugin = "sae"

    def examples(self, folder: Path) -> Mapping[str, Example]:
        return {"sae.planted": Example(samples=8, width=4, features=6)}


class FakeTrainer(Trainer):
    """Workers that answer at once: what they would do is the tests' of training to show."""

    async def call(
        self,
        function: str,
        payload: Mapping[str, Any],
        workdir: Path,
        ctx: Context,
        *,
        reuse: bool = True,
    ) -> Any:
        await anyio.lowlevel.checkpoint()
        if function == "engine_train.evaluating:evaluate":
            return {"accuracy": {"all": {"n": 1.0, "accuracy": 1.0}}}
        folder = anyio.Path(payload["output"])
        await folder.mkdir(parents=True)
        await (folder / "config.json").write_text("{}")
        return {"metrics": {"loss": 1.0}}


class FakeModels(Models):
    """A reward model of one token a word, whose reward is their number."""

    async def reward(self, ref: Any, *, revision: str | None = None) -> Any:
        await anyio.lowlevel.checkpoint()
        encode = lambda prompt, reply: Tokens([1] * len(str(reply).split()), 0)  # noqa: E731
        return SimpleNamespace(
            pad=0,
            encode=encode,
            score=lambda tokens: [float(len(t.ids)) for t in tokens],
            position=lambda ids, start: Span(len(ids) - 1, len(ids)),
        )


class TestTrain(PluginContract):
    plugin = "train"

    def examples(self, folder: Path) -> Mapping[str, Example]:
        judged = {"held out": {"n": 4, "accuracy": 0.75, "low": 0.3, "high": 0.95}}
        model = Blob({"config.json": "{}"}, "application/x-transformers")
        dataset = Blob('{"text": "a"}\n', "application/jsonl")
        given = {"dataset": dataset, "base": model}
        votes = {"instruction": "Add.", "first": "2", "second": "3", "vote": 1}
        return {
            **{
                f"train.{name}": Example([given], trainer=FakeTrainer())
                for name in ("sft", "reward", "dpo")
            },
            "train.grpo": Example(
                [given], trainer=FakeTrainer(), reward_function="package.module:reward"
            ),
            "train.assign": Example([{"chosen": "a"}], set="hh"),
            "train.preference": Example([votes], set="sums"),
            "train.score": Example([{"model": model, "completion": "a b"}], models=FakeModels()),
            "train.evaluate": Example(
                [{"model": model, "held_out": dataset}], trainer=FakeTrainer()
            ),
            "train.report": Example([{"accuracy": judged}], path=folder / "report.html"),
        }


class TestTransformers(PluginContract):
    plugin = "transformers"


class TestDataset(PluginContract):
    plugin = "dataset"

    def examples(self, folder: Path) -> Mapping[str, Example]:
        (folder / "rows.jsonl").write_text('{"question": "What is a kayak?"}\n')
        return {
            "dataset.read": Example(path=folder / "rows.jsonl"),
            "dataset.pack": Example(
                [{"game": "go", "n": 1}, {"game": "chess", "n": 2}], by=["game"]
            ),
            "dataset.attach": Example([{"n": 1}], path=folder / "rows.jsonl"),
            "dataset.write": Example([{"question": "Why?"}], path=folder / "out.jsonl"),
        }


class TestArtifact(PluginContract):
    plugin = "artifact"

    def examples(self, folder: Path) -> Mapping[str, Example]:
        rows = [{"name": "a", "model": Blob({"config.json": "{}"}, "model")}]
        return {"artifact.write": Example(rows, path=folder / "{name}", field="model")}


class TestRows(PluginContract):
    plugin = "rows"

    def examples(self, folder: Path) -> Mapping[str, Example]:
        rows = [{"game": "go", "n": 1}, {"game": "go", "n": 2}]
        return {"rows.gather": Example(rows, by=["game"], fields=["n"], consecutive=True)}


class TestSweep(PluginContract):
    plugin = "sweep"

    def examples(self, folder: Path) -> Mapping[str, Example]:
        return {"sweep.grid": Example(over={"seed": [0, 1], "game": ["go"]})}


class TestEmbedded(PluginContract):
    plugin = "embedded"


class TestOpenAI(PluginContract):
    plugin = "openai"


class TestFixture(PluginContract):
    plugin = "fixture"
