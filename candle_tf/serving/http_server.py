"""Waitress with limits on connections whose request does not arrive.

server = HttpServer(application, host="127.0.0.1", port=8501, threads=8, channel_timeout=30)

A connection that is idle, or whose request has not arrived whole in `channel_timeout` seconds, is
closed. Where few connections are left, this time is one second.
"""

import time
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer

# Part of all connections above which they are crowded, and the seconds each may wait then.
_CROWDED = 0.75
_CROWDED_SECONDS = 1.0


class _Request(HTTPRequestParser):
    """A request that is arriving, and knows since when."""

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self.began = time.time()


class _Channel(HTTPChannel):
    """A connection."""

    parser_class = _Request

    @property
    def waiting_since(self) -> float:
        """When the request that is arriving began, or else the last byte was sent or received."""
        request = self.request
        return float(self.last_activity if request is None else request.began)


class HttpServer(TcpWSGIServer):
    """Waitress's server for one address, with a time limit for requests to arrive."""

    channel_class = _Channel

    def maintenance(self, now: float) -> None:
        """Closes what has waited too long; Waitress calls this regularly.

        Args:
            now: seconds since the epoch.
        """
        crowded = len(self.active_channels) > _CROWDED * self.adj.connection_limit
        seconds: Any = _CROWDED_SECONDS if crowded else self.adj.channel_timeout
        for channel in self.active_channels.values():
            if not channel.requests and channel.waiting_since < now - seconds:
                channel.will_close = True
