"""The stage of this example."""

from engine import Reject, Row, Text, stage
from engine.chat import Chat, Message


class Answer(Row):
    """An answer to a question."""

    answer: Text


@stage("my.answer")
async def answer(question: Text, *, llm: Chat, longest: int = 400) -> Answer:
    """Answer a question."""
    (reply,) = await llm.complete([Message(role="user", content=question)])
    if len(reply.text) > longest:
        raise Reject("too_long", span=reply.text)
    return Answer(reply.text.strip())
