"""Builds llama-cpp-python for this machine's processor, and proves it: `make setup` runs this.

`--portable FOLDER` makes a wheel for every processor instead, and installs nothing: images take it.

The build that pip makes by default is two to three times slower on some processors and crashes
on others: GCC before 12.4 (and 13.0 to 13.2) drops stores that set up AMX tiles. So the switches
are chosen here, a decode in a child process proves the result, and a build that fails the proof
gives way to a plainer one. Wheels are kept in the user's cache by what they were built with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

VERSION = "0.3.36"
REQUIREMENT = f"llama-cpp-python=={VERSION}"
ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "tiny" / "tiny-q8_0.gguf"
CONSTRAINTS = ROOT / "constraints.txt"
STAMP = Path(sys.prefix) / ".llama-cpp-build.json"
REPORT_EVERY_S = 10.0
PROOF_TIMEOUT_S = 300
# What the processor says of itself (Linux), the switch of ggml's build, the first GCC that has it.
SWITCHES = (
    ("sse4_2", "GGML_SSE42", 4),
    ("avx", "GGML_AVX", 4),
    ("f16c", "GGML_F16C", 4),
    ("fma", "GGML_FMA", 4),
    ("bmi2", "GGML_BMI2", 4),
    ("avx2", "GGML_AVX2", 4),
    ("avx512f", "GGML_AVX512", 6),
    ("avx512vbmi", "GGML_AVX512_VBMI", 6),
    ("avx512_vnni", "GGML_AVX512_VNNI", 8),
    ("avx512_bf16", "GGML_AVX512_BF16", 10),
    ("avx_vnni", "GGML_AVX_VNNI", 11),
    ("amx_tile", "GGML_AMX_TILE", 11),
    ("amx_int8", "GGML_AMX_INT8", 11),
)
# GGML_AVX512 uses all of these.
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
KEEP_TILE_STORES = "-fno-tree-dse -fno-dse"
# One library for each kind of processor, beside the others; the engine loads the best that runs.
EVERY_PROCESSOR = {
    "GGML_NATIVE": "OFF",
    "GGML_BACKEND_DL": "ON",
    "GGML_CPU_ALL_VARIANTS": "ON",
    # Typed, or CMake makes it a folder of the machine that builds.
    "GGML_BACKEND_DIR:STRING": "llama_cpp/lib",
}
SMALLER = {"LLAVA_BUILD": "OFF"}  # no image models: nothing here can use them


@dataclass(frozen=True)
class Build:
    """One way to build: switches for CMake, flags for the compiler."""

    name: str
    switches: Mapping[str, str] = field(default_factory=dict)
    flags: str = ""

    def environment(self) -> dict[str, str]:
        options = {**SMALLER, **self.switches}
        return {
            "CMAKE_ARGS": " ".join(f"-D{name}={value}" for name, value in options.items()),
            "CFLAGS": self.flags,
            "CXXFLAGS": self.flags,
            "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
        }


def choose_builds(
    machine: str, features: Iterable[str], gcc: tuple[int, int] | None
) -> list[Build]:
    """The builds to try, best first. `gcc` None: another compiler. Pure."""
    have = set(features)
    plain = Build("as the sources choose")
    if machine not in ("x86_64", "AMD64") or "avx2" not in have:
        return [plain]  # ggml finds out by itself what an Arm or an old processor can do
    if not have >= AVX512:
        have -= {name for name in have if name.startswith("avx512")}
    known = gcc[0] if gcc else 99
    switches = {
        switch: "ON" if feature in have and known >= first else "OFF"
        for feature, switch, first in SWITCHES
    }
    switches = {"GGML_NATIVE": "OFF", **switches}
    without_amx = {
        name: "OFF" if name.startswith("GGML_AMX") else value for name, value in switches.items()
    }
    modest = {
        name: "OFF" if "512" in name or "VNNI" in name else value
        for name, value in without_amx.items()
    }
    builds = []
    if switches["GGML_AMX_INT8"] == "ON":
        flags = KEEP_TILE_STORES if drops_tile_stores(gcc) else ""
        builds.append(Build("with AMX", switches, flags))
    builds.append(Build("for this processor", without_amx))
    if modest != without_amx:
        builds.append(Build("with AVX2 only", modest))
    return [*builds, plain]


def portable_build(gcc: tuple[int, int] | None, *, cuda: bool) -> Build:
    """For images, which do not know where they will run. Pure."""
    flags = KEEP_TILE_STORES if drops_tile_stores(gcc) else ""
    if cuda:
        return Build("for CUDA and every processor", {**EVERY_PROCESSOR, "GGML_CUDA": "ON"}, flags)
    return Build("for every processor", EVERY_PROCESSOR, flags)


def drops_tile_stores(gcc: tuple[int, int] | None) -> bool:
    """Whether this GCC miscompiles AMX tile configurations (fixed in 12.4, 13.3 and 14)."""
    return gcc is not None and (gcc < (12, 4) or (13, 0) <= gcc < (13, 3))


def processor_features() -> set[str]:
    """The flags of /proc/cpuinfo; none elsewhere than on Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found.group(1).split()) if found else set()


def compiler() -> tuple[str, tuple[int, int] | None]:
    """What `c++` says it is, and its version if it is GCC."""
    command = os.environ.get("CXX", "c++")
    try:
        says = subprocess.run(
            [*command.split(), "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        sys.exit(
            f"error: no C++ compiler ({command}); install one, such as Debian's g++ or Apple's "
            "command line tools, and run this again"
        )
    first = says.splitlines()[0] if says else command
    if "Free Software Foundation" not in says:
        return first, None
    version = re.search(r"(\d+)\.(\d+)\.\d+", first)
    return first, (int(version.group(1)), int(version.group(2))) if version else None


def wheel_of(build: Build, compiler_name: str) -> Path:
    """A wheel of this build, from the cache or made now; it suits every Python. Raises
    CalledProcessError."""
    inputs = [VERSION, asdict(build), compiler_name, platform.machine()]
    key = hashlib.sha256(json.dumps(inputs, default=str, sort_keys=True).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "open-llm-server" / "llama-cpp" / key
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        command = ["wheel", "--verbose", "--no-cache-dir", "--no-deps"]
        command += ["--no-binary", "llama-cpp-python", "--wheel-dir", str(folder), REQUIREMENT]
        run_with_progress(command, build.environment())
        wheels = list(folder.glob("*.whl"))
    return wheels[0]


def run_with_progress(arguments: list[str], environment: Mapping[str, str]) -> None:
    """pip, with a line now and then that says how far it is, and its last words if it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    began = reported = time.monotonic()
    last: deque[str] = deque(maxlen=40)
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line)
            step = re.match(r"\s*\[(\d+)/(\d+)\]", line)
            now = time.monotonic()
            if step and now - reported >= REPORT_EVERY_S:
                reported = now
                print(f"  step {step[1]} of {step[2]}, {now - began:.0f} s", flush=True)
    if process.returncode:
        print("".join(last), file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)


def install(wheel: Path) -> None:
    for arguments in (
        ["install", "--quiet", "--force-reinstall", "--no-deps", str(wheel)],
        # What it needs itself.
        ["install", "--quiet", "--constraint", str(CONSTRAINTS), REQUIREMENT],
    ):
        subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True
        )


def proof() -> str:
    """Decodes in a child process; empty when it worked, else how it ended."""
    command = [sys.executable, "-m", "open_llm_server.engine.smoke", str(MODEL)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROOF_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"did not end within {PROOF_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    words = (done.stderr.strip().splitlines() or ["without a word"])[-1]
    if done.returncode < 0:
        return f"was ended by signal {-done.returncode}: {words}"
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds llama.cpp.")
    parser.add_argument("--portable", metavar="FOLDER", type=Path, help="make a wheel only")
    parser.add_argument("--cuda", action="store_true", help="of the wheel: for GPUs too")
    arguments = parser.parse_args()
    name, gcc = compiler()
    if arguments.portable:
        build = portable_build(gcc, cuda=arguments.cuda)
        print(f"building llama.cpp {build.name} (a quarter of an hour) with {name}", flush=True)
        arguments.portable.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel_of(build, name), arguments.portable)
        return
    builds = choose_builds(platform.machine(), processor_features(), gcc)
    inputs = json.loads(json.dumps([VERSION, name, asdict(builds[0])]))
    stamp = json.loads(STAMP.read_text()) if STAMP.exists() else {}
    if stamp.get("inputs") == inputs and not proof():
        print(f"llama.cpp is here, built {stamp['build']}")
        return
    STAMP.unlink(missing_ok=True)
    for build in builds:
        print(f"building llama.cpp {build.name} (some minutes, once) with {name}", flush=True)
        try:
            install(wheel_of(build, name))
        except subprocess.CalledProcessError as failed:
            print(f"warning: this build failed ({failed.returncode}); trying a plainer one")
            continue
        fault = proof()
        if not fault:
            STAMP.write_text(json.dumps({"inputs": inputs, "build": build.name}))
            print(f"llama.cpp is built {build.name}, and decodes")
            return
        print(f"warning: its decode {fault}; trying a plainer build")
    sys.exit(
        "error: no build of llama.cpp works here; the lines above say how each failed. With "
        "another compiler: CC=clang CXX=clang++ make setup"
    )


if __name__ == "__main__":
    main()
