"""The page of the web app, in Gradio. It loads nothing from outside this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from zoo.app.jobs import (
    NUM_TAKES,
    Form,
    Jobs,
    Result,
    Session,
    Sessions,
    as_sentence,
    describe_song,
    thumbnail,
    to_sentence,
)

FONTS = ["system-ui", "sans-serif"]  # Gradio's own come from a server of Google
THEME = gr.themes.Soft(font=FONTS, font_mono=["ui-monospace", "monospace"])
PROGRESS = gr.Progress()  # Gradio replaces it in every call
SEED = 3  # position of the seed among the values of the form
SONG_STYLE = "chosen from the song"
INTRODUCTION = """# DanceZoo
One picture and one song make a video of the pictured person who dances. Without an upload, the demo's are used."""


def build_page(jobs: Jobs, sessions: Sessions, styles: list[str], renderers: list[str], max_waiting: int) -> gr.Blocks:
    """The page. One job runs at a time; up to `max_waiting` wait."""

    def session_of(request: gr.Request) -> Session:
        return sessions.get(str(request.session_hash))

    def take_upload(option: str, show: Callable[[Path], str], stored: str | None, request: gr.Request) -> tuple:
        """What the page shows of an upload, and the session's copy of it."""
        session = session_of(request)
        copy = sessions.take_upload(str(request.session_hash), option, stored and Path(stored))
        try:
            return (None, None) if copy is None else (show(copy), str(copy))
        except Exception as error:
            raise gr.Error(to_sentence(error, session), print_exception=False) from None

    def take_picture(stored: str | None, request: gr.Request) -> tuple:
        view, copy = take_upload("image", thumbnail, stored, request)
        return gr.Image(view, visible=view is not None), copy

    def take_song(stored: str | None, request: gr.Request) -> tuple:
        return take_upload("music", describe_song, stored, request)

    def run(job: Callable[..., Result], request: gr.Request, progress: gr.Progress, values: Sequence[Any]) -> tuple:
        """The files of a job, and its notes as a list in Markdown."""
        picture, song, style, seed, renderer, seconds, person = values
        form = Form(
            picture=picture and Path(picture),
            song=song and Path(song),
            style=None if style == SONG_STYLE else style,
            seed=seed or 0,
            renderer=renderer,
            seconds=seconds or 0,
            person=person or "",
        )
        try:
            session = session_of(request)
        except ValueError as error:
            raise gr.Error(f"{error}.", print_exception=False) from None
        progress(0, desc="reading picture and song")
        try:
            result = job(form, session, lambda done, total: progress((done, total), desc="dancing"))
        except Exception as error:
            raise gr.Error(to_sentence(error, session), print_exception=False) from None
        return [str(file) for file in result.files], "\n".join(f"- {as_sentence(n, session)}" for n in result.notes)

    def preview(request: gr.Request, progress: gr.Progress = PROGRESS, *values: Any) -> tuple:
        files, notes = run(jobs.preview, request, progress, values)
        return files[0], notes

    def takes(request: gr.Request, progress: gr.Progress = PROGRESS, *values: Any) -> tuple:
        files, notes = run(jobs.takes, request, progress, values)
        seed = int(values[SEED] or 0)
        choices = [(f"take {take + 1} (seed {seed + take})", seed + take) for take in range(NUM_TAKES)]
        return files[0], gr.Radio(choices, value=None, visible=True), notes

    def video(request: gr.Request, progress: gr.Progress = PROGRESS, *values: Any) -> tuple:
        files, notes = run(jobs.video, request, progress, values)
        return files[0], next((file for file in files if file.endswith(".glb")), None), files, notes

    def stop(request: gr.Request) -> None:
        session_of(request).stop.set()

    def end(request: gr.Request) -> None:
        sessions.end(str(request.session_hash))

    with gr.Blocks(title="DanceZoo", analytics_enabled=False, delete_cache=(600, 86400)) as page:
        gr.Markdown(INTRODUCTION)
        picture, song = gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                picture_file = gr.File(label="Picture", height=120, elem_id="picture")
                picture_view = gr.Image(
                    label="Your picture", interactive=False, height=260, buttons=[], visible=False, elem_id="view"
                )
                song_file = gr.File(label="Song", height=120, elem_id="song")
                song_line = gr.Markdown("", elem_id="song-line")
                style = gr.Dropdown([SONG_STYLE, *styles], value=SONG_STYLE, label="Style")
                renderer = gr.Radio(renderers, value=renderers[0], label="Renderer")
                length = gr.Slider(1, jobs.max_seconds, min(20, jobs.max_seconds), step=1, label="Length (seconds)")
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=100, elem_id="seed")
                    person = gr.Textbox(
                        label="Person", placeholder="the largest", min_width=100, info="from the left: 1, or 1,2"
                    )
            with gr.Column(scale=2, min_width=480):
                with gr.Row():
                    preview_button = gr.Button("Preview (3 s)", elem_id="preview-button", min_width=100)
                    takes_button = gr.Button("Four takes", elem_id="takes-button", min_width=100)
                    video_button = gr.Button("Full video", variant="primary", elem_id="video-button", min_width=100)
                    stop_button = gr.Button("Stop", variant="stop", elem_id="stop-button", min_width=60)
                notes = gr.Markdown("", elem_id="notes")
                with gr.Tabs() as tabs:
                    with gr.Tab("Preview", id="preview"):
                        preview_view = gr.Video(label="Preview", height=420, interactive=False, elem_id="preview")
                    with gr.Tab("Four takes", id="takes"):
                        sheet = gr.Image(show_label=False, interactive=False, buttons=[], elem_id="sheet")
                        take = gr.Radio([], label="Use the seed of", visible=False, elem_id="take")
                    with gr.Tab("Video", id="video"):
                        with gr.Row():
                            video_view = gr.Video(label="Video", height=420, interactive=False, elem_id="video")
                            body = gr.Model3D(label="Motion", height=420, interactive=False, elem_id="body")
                        files = gr.Files(label="Download: video, and motion as .glb and .bvh", elem_id="files")

        form = [picture, song, style, seed, renderer, length, person]
        private = {"api_visibility": "private"}
        picture_file.change(take_picture, picture_file, [picture_view, picture], **private, show_progress="hidden")
        song_file.change(take_song, song_file, [song_line, song], **private, show_progress="hidden")
        one_at_a_time = {"concurrency_id": "job", "concurrency_limit": 1, **private}
        for button, job, tab, outputs in (
            (preview_button, preview, "preview", [preview_view, notes]),
            (takes_button, takes, "takes", [sheet, take, notes]),
            (video_button, video, "video", [video_view, body, files, notes]),
        ):
            button.click(lambda tab=tab: (gr.Tabs(selected=tab), ""), None, [tabs, notes], queue=False, **private).then(
                job, form, outputs, **one_at_a_time
            )
        take.input(lambda value: value, take, seed, queue=False, **private)
        stop_button.click(stop, None, None, queue=False, **private)
        page.unload(end)
    return page.queue(max_size=max_waiting, api_open=False)


class SecurityHeaders:
    """ASGI middleware: every answer has a Content-Security-Policy."""

    def __init__(self, app: Any, policy: str):
        self._app, self._header = app, (b"content-security-policy", policy.encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""

        async def send_with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], self._header]}
            await send(message)

        await self._app(scope, receive, send_with_header)


def launch(page: gr.Blocks, host: str, port: int, max_upload_mb: int, policy: str, open_browser: bool) -> None:
    """Serve the page in a thread of its own. Raises OSError where the port cannot be used."""
    page.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=max_upload_mb * 2**20,
        app_kwargs={"middleware": [Middleware(SecurityHeaders, policy=policy)]},
        theme=THEME,
    )
