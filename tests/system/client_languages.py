"""The clients in other languages: what their tools are, how each is built, and what runs its tests and its example."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

ROOT: Final = Path(__file__).parents[2]
CLIENTS: Final = ROOT / "clients"
JARS: Final = "/usr/share/java"


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language.

    Attributes:
        name: Of its folder under `clients`.
        needs: Programs and files that must be there.
        packages: What brings them, for people.
        build: Commands, in that folder.
        test: What runs its tests.
        example: What runs its example, before a model and a prompt.
        sources: The example.
        answers: What runs its example of a function and an index, before an index, a model, a question and files; none
            where it has none.
        watching: What runs its example of a training, before an id; likewise.
    """

    name: str
    needs: tuple[str, ...]
    packages: str
    build: tuple[tuple[str, ...], ...]
    test: tuple[str, ...]
    example: tuple[str, ...]
    sources: str
    answers: tuple[str, ...] = ()
    watching: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it is."""
        return CLIENTS / self.name

    @property
    def lacking(self) -> str:
        """Why it cannot be tried here; "" where it can."""
        absent = [each for each in self.needs if not (Path(each).exists() if "/" in each else shutil.which(each))]
        return f"clients/{self.name}: {', '.join(absent)} are lacking; install {self.packages}" if absent else ""


# Packages are installed where they are not those of the lock file yet.
INSTALL: Final = (
    "test node_modules/.package-lock.json -nt package-lock.json || npm ci --ignore-scripts --no-audit --no-fund"
)
NODE: Final = Language(
    name="node",
    needs=("node", "npm"),
    packages="nodejs and npm",
    build=(("sh", "-c", INSTALL), ("npm", "run", "--silent", "build")),
    test=("npm", "test", "--silent"),
    example=("node", "build/example/durable.js"),
    sources="example/durable.ts",
    answers=("node", "build/example/answers.js"),
    watching=("node", "build/example/training.js"),
)
GO: Final = Language(
    name="go",
    needs=(
        "go",
        "make",
        "protoc",
        "protoc-gen-go",
        "protoc-gen-go-grpc",
        "/usr/share/gocode/src/google.golang.org/grpc",
    ),
    packages="golang-go golang-google-grpc-dev golang-google-genproto-dev golang-github-golang-protobuf-1-5-dev "
    "protoc-gen-go-1-5 protoc-gen-go-grpc protobuf-compiler",
    build=(("make",),),
    test=("make", "test"),
    example=("build/durable",),
    sources="example/durable/main.go",
    answers=("build/answers",),
    watching=("build/training",),
)
JAVA: Final = Language(
    name="java",
    needs=("javac", "make", "protoc", "grpc_java_plugin", f"{JARS}/grpc-netty.jar", f"{JARS}/perfmark-api.jar"),
    packages="default-jdk-headless libgrpc-java libperfmark-java libprotobuf-java libnetty-java libnetty-tcnative-java "
    "libgeronimo-annotation-1.3-spec-java libguava-java liberror-prone-java libgoogle-gson-java protobuf-compiler "
    "protobuf-compiler-grpc-java-plugin",
    build=(("make",),),
    test=("make", "test"),
    example=("build/durable",),
    sources="example/Durable.java",
    answers=("build/answers",),
    watching=("build/training",),
)
CPP: Final = Language(
    name="cpp",
    needs=("cmake", "g++", "pkg-config", "protoc", "grpc_cpp_plugin", "/usr/include/grpcpp/grpcpp.h"),
    packages="cmake g++ pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc",
    build=(("cmake", "-S", ".", "-B", "build"), ("cmake", "--build", "build", "-j2")),
    test=("build/client_test",),
    example=("build/durable",),
    sources="example/durable.cc",
    answers=("build/answers",),
    watching=("build/training",),
)
# Without what the environment of the tests has beside the packages: `-S` reads no path files, which bring the kernel.
SITE: Final = str(Path(grpc.__file__).parents[1])
ALONE: Final = ("env", f"PYTHONPATH=build/site:{SITE}", sys.executable, "-S")
PYTHON: Final = Language(
    name="python",
    needs=(sys.executable,),
    packages="nothing",
    build=(
        ("rm", "-rf", "build"),
        (sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "-w", "build", "."),
        ("sh", "-c", f"{sys.executable} -m zipfile -e build/inferd_client-*.whl build/site"),
    ),
    test=(*ALONE, str(ROOT / "tests" / "system" / "client_program.py")),
    example=(*ALONE, "example/durable.py"),
    sources="example/durable.py",
)
LANGUAGES: Final = (PYTHON, NODE, GO, JAVA, CPP)
