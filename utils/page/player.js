// Mixes the tracks of a result in the browser, in step with the picture. The silent video is the clock: the tracks are started
// where it is, and again wherever they are found to be off.

const DRIFT_SEC = 0.03;    // beyond this they are started again
const WATCHED_MS = 100;
const AHEAD_SEC = 0.02;    // so that all tracks begin at one sample
const FADE_SEC = 0.01;     // of gains, against clicks
const SAMPLE_RATE_HZ = 16000; // that of the tracks: their samples are heard as they are, and take little memory

class Player {
    constructor(section) {
        this.section = section;
        this.video = section.querySelector("video");
        this.context = new AudioContext({ sampleRate: SAMPLE_RATE_HZ, latencyHint: "interactive" });
        this.master = this.context.createGain();
        this.master.connect(this.context.destination);
        this.tracks = [...section.querySelectorAll(".track")].map((row) => this.addTrack(row));
        this.started = null; // where and when the tracks were started; null while they are silent
        this.restarts = 0;
        this.isLoaded = false;
        for (const name of ["playing", "seeked", "ratechange"]) this.video.addEventListener(name, () => this.start());
        for (const name of ["pause", "seeking", "waiting", "ended"]) this.video.addEventListener(name, () => this.stop());
        this.video.addEventListener("play", () => this.context.resume());
        for (const input of section.querySelectorAll(".blend input")) input.addEventListener("input", () => this.applyGains());
        this.watch = setInterval(() => this.keepStep(), WATCHED_MS);
        this.applyGains();
        this.load();
    }

    addTrack(row) {
        const track = { row, name: row.dataset.name, gain: this.context.createGain(), buffer: null, source: null };
        track.gain.connect(this.master);
        for (const button of row.querySelectorAll("button")) {
            button.addEventListener("click", () => {
                button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
                this.applyGains();
            });
        }
        row.querySelector(".level").addEventListener("input", () => this.applyGains());
        return track;
    }

    async load() {
        const note = this.section.querySelector(".loading");
        try {
            for (const [k, track] of this.tracks.entries()) {
                note.textContent = `Loading the tracks: ${k + 1} of ${this.tracks.length} …`;
                const answer = await fetch(track.row.dataset.src);
                if (!answer.ok) throw new Error(answer.status === 404 ? "they are removed after an hour" : answer.statusText);
                track.buffer = await this.context.decodeAudioData(await answer.arrayBuffer());
            }
            note.remove();
            this.isLoaded = true;
            this.start();
        } catch (error) {
            note.textContent = `The tracks could not be loaded: ${error.message}`;
        }
    }

    // ---- what is heard of each track

    pressed(track, name) {
        return track.row.querySelector(`.${name}`).getAttribute("aria-pressed") === "true";
    }

    applyGains() {
        const someAlone = this.tracks.some((track) => this.pressed(track, "solo"));
        const blended = this.section.querySelector(".faces input:checked")?.value;
        const blending = this.section.querySelector(".blending").value / 100; // 0: only the face, 0.5: as it was, 1: without it
        for (const track of this.tracks) {
            const isHeard = !this.pressed(track, "mute") && (!someAlone || this.pressed(track, "solo"));
            const share = Math.min(1, 2 * (track.name === blended ? 1 - blending : blending));
            track.level = isHeard ? share * track.row.querySelector(".level").value / 100 : 0;
            track.gain.gain.setTargetAtTime(track.level, this.context.currentTime, FADE_SEC);
            track.row.classList.toggle("silent", track.level === 0);
        }
    }

    // ---- when

    get latencySec() {
        return this.context.outputLatency || this.context.baseLatency || 0;
    }

    start() {
        this.stop();
        const video = this.video;
        if (!this.isLoaded || video.paused || video.ended || video.seeking || video.readyState < 3) return;
        const rate = video.playbackRate;
        const at = this.context.currentTime + AHEAD_SEC;
        const from = video.currentTime + (AHEAD_SEC + this.latencySec) * rate;
        for (const track of this.tracks) {
            track.source = this.context.createBufferSource();
            track.source.buffer = track.buffer;
            track.source.playbackRate.value = rate;
            track.source.connect(track.gain);
            track.source.start(at, from);
        }
        this.started = { at, from, rate };
        this.restarts += 1;
    }

    stop() {
        for (const track of this.tracks) {
            track.source?.stop();
            track.source?.disconnect();
            track.source = null;
        }
        this.started = null;
    }

    // The place in the tracks that is heard now, s; null while they are silent.
    position() {
        if (!this.started) return null;
        const { at, from, rate } = this.started;
        return from + (this.context.currentTime - at - this.latencySec) * rate;
    }

    keepStep() {
        if (!this.section.isConnected) return this.close();
        const isPlaying = !this.video.paused && !this.video.ended && !this.video.seeking;
        if (isPlaying && (!this.started || Math.abs(this.position() - this.video.currentTime) > DRIFT_SEC)) this.start();
    }

    close() {
        clearInterval(this.watch);
        this.stop();
        this.context.close();
    }

    // For tests and for those who look from the console.
    state() {
        return {
            isLoaded: this.isLoaded,
            isPlaying: this.started !== null,
            time: this.video.currentTime,
            restarts: this.restarts,
            tracks: this.tracks.map((track) => ({
                name: track.name,
                level: track.level,
                position: track.source ? this.position() : null,
                duration: track.buffer?.duration ?? null,
            })),
        };
    }
}

new MutationObserver(() => {
    const section = document.querySelector(".player");
    if (section && section !== window.player?.section) window.player = new Player(section);
    // gradio wants to show the upload, which no longer lies where it looks for it
    for (const toast of document.querySelectorAll(".toast-body")) {
        if (toast.textContent.includes("Video not playable")) toast.remove();
    }
}).observe(document.documentElement, { childList: true, subtree: true });
