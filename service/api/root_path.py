"""A path in front of all routes, where a proxy serves other things under the same name, too."""

from litestar.types import ASGIApp, Message, Receive, Scope, Send


def behind_root_path(root_path: str, app: ASGIApp) -> ASGIApp:
    """The application, also where its paths come with one in front, which a proxy has left there.

    What it answers as `Location` has that in front in any case. Litestar's own `root_path` takes
    it off wherever it first stands in a path, which may be within the id of a memory.
    """

    def located(name: bytes, value: bytes) -> bytes:
        links_here = name.lower() == b"location" and value.startswith(b"/")
        return root_path.encode() + value if links_here else value

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_located(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, located(name, value)) for name, value in message["headers"]]
                message["headers"] = headers
            await send(message)

        if scope["path"].startswith(f"{root_path}/"):
            scope["path"] = scope["path"].removeprefix(root_path)
        await app(scope, receive, send_located)

    return answer if root_path else app
