"""Who answers requests of strangers: handlers of web servers, callbacks of gradio; and what shows text to a user."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver

SERVERS = (
    "fastapi",
    "flask",
    "gradio",
    "streamlit",
    "http.server",
    "tornado",
    "starlette",
    "aiohttp",
    "django",
    "sanic",
)
"""Words of files that may serve requests."""

_VERBS = frozenset({"route", "get", "post", "put", "delete", "patch", "websocket", "api_route", "head", "options"})
_CATCHERS = frozenset({"exception_handler", "errorhandler", "middleware"})
_APP = regex(r"(^|[._])\w*(app|router|api|bp|blueprint|server|routes)$", re.IGNORECASE)
_HANDLER_BASE = regex(r"(RequestHandler|MethodView|APIView|HTTPEndpoint)$")
_EVENTS = frozenset({"click", "submit", "change", "then", "upload", "load", "Interface", "ChatInterface", "select"})
_RESPONSES = frozenset(
    {"HTTPException", "jsonify", "JSONResponse", "HTMLResponse", "PlainTextResponse", "make_response", "send_error"}
    | {"json_response", "HttpResponse", "JsonResponse", "ORJSONResponse"}
)


def answers_requests(module: Module, function: Function) -> bool:
    """Whether what the function returns goes to whoever asked over the network or in a web page."""
    if any(_is_route(decorator) for decorator in function.decorator_list):
        return True
    cls = module.tree.class_of(function)
    if cls is not None and module.tree.parents[function] is cls:
        verb = function.name.startswith("do_") or function.name in _VERBS
        return verb and any(_HANDLER_BASE.search(key(base) or "") for base in cls.bases)
    return function.name in _callbacks(module)


def shown_by(module: Module, call: ast.Call) -> bool:
    """Whether a call's arguments are shown to the user of a web page: a response, `st.error`, `gr.Error`."""
    name, owner = called(call), receiver(call)
    if name in _RESPONSES:
        return True
    if name == "write" and (key(owner) or "").endswith("wfile"):
        return True
    return any(
        dotted.startswith("streamlit.") or dotted in ("gradio.Error", "gradio.Warning", "gradio.Info")
        for dotted in module.names.dotted(call.func)
    )


def _is_route(decorator: ast.expr) -> bool:
    if not isinstance(decorator, ast.Call) or not _APP.search(key(receiver(decorator)) or ""):
        return False
    if called(decorator) in _CATCHERS:
        return True
    first = decorator.args[0] if decorator.args else None
    path = isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value.startswith("/")
    return called(decorator) in _VERBS and path


def _callbacks(module: Module) -> set[str]:
    """Return the names of functions that gradio calls."""
    return module.once("gradio callbacks", lambda: _find_callbacks(module) if "gradio" in module.text else set())


def _find_callbacks(module: Module) -> set[str]:
    given = {
        value.id
        for call in module.calls_of(*_EVENTS)
        for value in (*call.args[:1], *(k.value for k in call.keywords if k.arg == "fn"))
        if isinstance(value, ast.Name)
    }
    return {f.name for f in module.tree.all(*FUNCTIONS) if f.name in given}
