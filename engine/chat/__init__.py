"""Chats: the protocol that stages talk to, and what an endpoint implements.

Stages import `Chat`, `Message`, `Sampling`, `Reply` and `BadReply`; a new endpoint derives from
`Endpoint` and implements one method.
"""

from engine.chat.bound import Bound, Endpoint
from engine.chat.limiter import Limiter
from engine.chat.protocol import (
    Answer,
    Chat,
    Feature,
    Reply,
    Request,
    Sampling,
    TokenLogprob,
    prompt,
)
from engine.errors import BadReply, ChatError
from engine.rows import Dialogue, Message
from engine.services import Usage

__all__ = [
    "Answer",
    "BadReply",
    "Bound",
    "Chat",
    "ChatError",
    "Dialogue",
    "Endpoint",
    "Feature",
    "Limiter",
    "Message",
    "Reply",
    "Request",
    "Sampling",
    "TokenLogprob",
    "Usage",
    "prompt",
]
