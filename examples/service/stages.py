"""The stages of answers.yaml: a question comes in, an answer goes out."""

from collections.abc import AsyncIterator

from engine import Reject, Row, Text, stage
from engine.chat import Chat, Message


class Question(Row):
    """What a request's rows must have; other fields ride along."""

    question: Text


class Answer(Row):
    """What the model said."""

    answer: Text


@stage("service.questions")
async def questions() -> AsyncIterator[Question]:
    """Yield a question to try the pipeline with; in the service, a request's rows replace it."""
    yield Question(Text("What is a kayak?"))


@stage("service.answer")
async def answer(question: Text, *, llm: Chat, longest: int = 2000) -> Answer:
    """Answer a question, if it is no longer than `longest` characters."""
    if len(question) > longest:
        raise Reject("too_long")
    (reply,) = await llm.complete([Message(role="user", content=question)])
    return Answer(reply.text.strip())
