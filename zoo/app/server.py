"""`dancezoo app`: serve the page on this machine."""

import importlib.util
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from zoo.files import conf_folder
from zoo.run.config import to_dict
from zoo.run.sample.request import compose_request, style_names
from zoo.run.validate import int_at_least, positive

INSTALL_HINT = "the page needs Gradio: pip install 'dancezoo[app]' installs it"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
# A browser with this header loads nothing from other machines, whatever the page asks for.
SECURITY_POLICY = (
    "default-src 'self' blob: data:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'"
)


def serve(config: Any) -> None:
    """Serve the page until a signal ends the command: conf/app.yaml. Raises ValueError for a wrong option.

    All files of the page lie in one temporary folder, which is removed at the end.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(INSTALL_HINT)
    port = int_at_least(config.port, "port", 1)
    max_upload_mb = int_at_least(config.max_upload_mb, "max_upload_mb", 1)
    max_waiting = int_at_least(config.max_waiting, "max_waiting", 1)
    max_seconds = positive(config.max_seconds, "max_seconds")
    max_job_seconds = 60 * positive(config.max_job_minutes, "max_job_minutes")
    names = [file.stem for file in sorted((conf_folder() / "renderer").glob("*.yaml"))]
    renderers = [str(name) for name in config.renderers or []]
    if not renderers or set(renderers) - set(names):
        raise ValueError(f"renderers=[{','.join(renderers)}]: list some of {', '.join(names)}")
    defaults = {name: config[name] for name in ("ckpt", "use_ema", "device")} | {"weights": to_dict(config.weights)}
    compose_request(defaults)  # refuses a wrong one before the page opens
    root = Path(tempfile.mkdtemp(prefix="dancezoo-app-"))
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(root)}  # read when Gradio is imported
    try:
        from zoo.app.jobs import Jobs, Sessions
        from zoo.app.page import build_page, launch
        from zoo.run.sample import generate  # noqa: F401 - imports torch before the first job waits for it

        sessions = Sessions(root)
        page = build_page(Jobs(defaults, max_seconds, max_job_seconds), sessions, style_names(), renderers, max_waiting)
        try:
            launch(page, str(config.host), port, max_upload_mb, SECURITY_POLICY, bool(config.open_browser))
        except OSError as error:
            raise ValueError(f"host={config.host} port={port} cannot be used ({error}); give another port=") from None
        print(f"DanceZoo: http://{config.host}:{port} (Ctrl-C ends it)", flush=True)
        if config.host not in LOCAL_HOSTS:
            print(f"host={config.host}: everybody who reaches this machine can use the page", flush=True)
        try:
            threading.Event().wait()
        finally:
            sessions.end_all()
            page.close(verbose=False)
    finally:
        shutil.rmtree(root, ignore_errors=True)
