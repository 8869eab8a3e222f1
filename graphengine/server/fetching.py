"""Fetching files by URL for jobs: from hosts that whoever runs the server has named, and from no private address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Collection
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from graphengine.server.file_store import FileStore, StoredFile
from graphengine.server.problems import ApiError

MOST_REDIRECTS = 3
MOST_AT_ONCE = 4
"""Files that are fetched at once: each takes a thread of the server."""
CONNECT_SECONDS, SILENT_SECONDS, WHOLE_SECONDS = 10.0, 20.0, 120.0
"""Seconds in which a connection must be made, the next bytes arrive, and a file have arrived."""
PIECE = 1 << 18
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses whose last four bytes are an IPv4 address (NAT64, RFC 6052)."""
ANY = "*"
"""The name of a host that stands for all public ones."""


class Fetcher:
    """Fetches files by http and https into the store of files.

    Only hosts that were named are asked, at port 80 or 443 unless they were named with a port. The address that a name
    leads to is checked before a connection is made to it, and must be a public one; an address of a private network is
    asked only where it was itself named. A redirect is followed within the same host.

    Args:
        hosts: Names or addresses of hosts, with or without `:PORT`; `*` for all with public addresses. With none of
            them, nothing is fetched.
        files: Where the files go.
    """

    def __init__(self, hosts: Collection[str], files: FileStore) -> None:
        self.hosts, self.files = frozenset(host.lower() for host in hosts), files
        self._places = threading.BoundedSemaphore(MOST_AT_ONCE)

    def fetch(self, user: str, url: str) -> StoredFile:
        """Fetch a file for a user; blocks until it is in the store.

        Raises:
            ApiError: It may not be fetched, cannot be, or is too large.
        """
        target = self._checked(url)
        if not self._places.acquire(blocking=False):
            what = f"{MOST_AT_ONCE} files are being fetched; ask again later"
            raise ApiError("busy", what, headers={"Retry-After": "5"})
        try:
            return asyncio.run(self._fetch(user, target))
        except TimeoutError:
            raise ApiError("invalid", f"{target.host} did not send the file in time") from None
        except aiohttp.ClientConnectorDNSError:
            raise ApiError("invalid", f"there is no host {target.host!r}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ApiError("invalid", f"{target.host} did not send the file: {type(error).__name__}") from None
        finally:
            self._places.release()

    def _checked(self, text: str) -> URL:
        """A URL that may be asked."""
        if not self.hosts:
            what = "this server fetches no files by URL; upload the file"
            raise ApiError("invalid", f"{what}, or whoever runs it names the host: --allow-fetch HOST")
        try:
            url = URL(text)
            host, port = (url.host or "").lower(), url.port
        except ValueError:
            host, port = "", None
        if url_is_odd(text) or not host or port is None or (looks_like_address(host) and not is_address(host)):
            raise ApiError("invalid", f"{text[:80]!r} is no URL of a file: http:// or https://, a host, a path")
        if url.user is not None or url.password is not None:
            raise ApiError("invalid", "a URL with a name and a password in it is not fetched")
        named = f"[{host}]" if ":" in host else host
        if f"{named}:{port}" in self.hosts or f"{host}:{port}" in self.hosts:
            return url
        if port not in (80, 443) or not {host, named, ANY} & self.hosts:
            what = f"files of {named}:{port} are not fetched"
            raise ApiError("invalid", f"{what}; whoever runs this server can say --allow-fetch {named}:{port}")
        if is_address(host) and not is_public(host) and not {host, named} & self.hosts:
            raise ApiError("invalid", f"{host} is an address of a private network, from which nothing is fetched")
        return url

    async def _fetch(self, user: str, url: URL) -> StoredFile:
        connector = aiohttp.TCPConnector(resolver=PublicResolver(), use_dns_cache=False)
        timeout = aiohttp.ClientTimeout(total=WHOLE_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "graphengine"},
        ) as session:  # fmt: skip
            for _ in range(MOST_REDIRECTS + 1):
                async with session.get(url, allow_redirects=False) as answer:
                    if answer.status not in (301, 302, 303, 307, 308):
                        return await self._store(user, url, answer)
                    url = self._redirected(url, answer.headers.get("Location", ""))
        raise ApiError("invalid", f"{url.host} sends from one address to the next")

    def _redirected(self, url: URL, location: str) -> URL:
        try:
            target = url.join(URL(location))
        except ValueError:
            target = URL()
        if target.host is None or target.origin() != url.origin() or url_is_odd(str(target)):
            raise ApiError("invalid", f"{url.host} sends elsewhere, which is not followed; name the file's own URL")
        return self._checked(str(target))

    async def _store(self, user: str, url: URL, answer: aiohttp.ClientResponse) -> StoredFile:
        if answer.status != 200:
            raise ApiError("invalid", f"{url.host} answers {answer.status} for this file")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ApiError("invalid", f"{url.host} sends the file packed, which was not asked for")
        if (size := answer.content_length or 0) > self.files.most:
            raise ApiError("invalid", f"the file has {size:,} bytes; at most {self.files.most:,} are taken")
        upload = await asyncio.to_thread(self.files.upload, user)
        try:
            async for piece in answer.content.iter_chunked(PIECE):
                await asyncio.to_thread(upload.write, piece)
            if not upload.size:
                raise ApiError("invalid", "the file is empty")
            return await asyncio.to_thread(upload.keep)
        finally:
            await asyncio.to_thread(upload.close)


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only. aiohttp connects to the very addresses that are returned."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for address in found:
            if not is_public(address["host"]):
                what = f"{host} leads to an address of a private network, from which nothing is fetched"
                raise ApiError("invalid", what)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def url_is_odd(text: str) -> bool:
    """Whether a text is no plain URL of http or https."""
    return not text.lower().startswith(("http://", "https://")) or len(text) > 4096 or not text.isprintable()


def looks_like_address(host: str) -> bool:
    """Whether a host may be taken for an address: aiohttp does not resolve such a host, and the system reads
    `2130706433` and `127.1` as 127.0.0.1."""
    return ":" in host or host.replace(".", "").isdigit()


def is_address(host: str) -> bool:
    """Whether a host is an address, no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether an address is a public one: none of this machine, of a private or local network, or of a group."""
    known: Any = ipaddress.ip_address(address.partition("%")[0])
    if known in TRANSLATED:
        known = ipaddress.ip_address(int(known) & 0xFFFFFFFF)
    known = getattr(known, "ipv4_mapped", None) or getattr(known, "sixtofour", None) or known
    return known.is_global and not known.is_multicast
