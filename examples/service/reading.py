"""The rows of a request: read, bounded and checked."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

MOST_BYTES = 1 << 20


class Question(BaseModel):
    """One row of a request; `id` rides along, so that the client knows its rows again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: str = Field(min_length=1)
    id: str = ""


QUESTIONS = TypeAdapter(Annotated[list[Question], Field(min_length=1, max_length=1000)])


async def read_rows(request: Request) -> list[dict[str, Any]]:
    """Return a request's rows. Raises HTTPException for a body that is too big or no such list."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "send application/json")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                raise HTTPException(413, f"the body may have {MOST_BYTES} bytes")
        return [row.model_dump() for row in QUESTIONS.validate_json(bytes(body))]
    except ClientDisconnect:
        raise HTTPException(400, "the client left") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("rows", *first["loc"])))
        status = 400 if first["type"] == "json_invalid" else 422
        raise HTTPException(status, f"{place}: {first['msg']}") from None
