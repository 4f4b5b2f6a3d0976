from engine import stage


@stage("mine.count")
async def count(n: int):  # no return annotation
    return n
