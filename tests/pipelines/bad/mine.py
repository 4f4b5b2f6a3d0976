"""One stage, one plain function, one that is decorated wrongly in another file."""

from engine import Row, stage


class Loud(Row):
    loud: str


@stage("mine.shout")
async def shout(label: str) -> Loud:
    return Loud(label.upper())


def helper(label: str) -> str:
    return label
