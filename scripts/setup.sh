#!/usr/bin/env bash
# Create .venv with the exact versions of constraints.txt. If .venv is up to date, this takes a moment.
#
# PYTHON=/path/to/python3.12        use this interpreter
# D3D_NO_SYSTEM_CHECK=1             do not check the system libraries
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/.setup-stamp
extras=all

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf '\nsetup: %s\n' "$1" >&2
    shift
    printf '       %s\n' "$@" >&2
    exit 1
}
is_root() { [ "$(id -u)" -eq 0 ]; }

# Prints 3.11 or 3.12, or nothing if the interpreter does not run or has another version.
supported_version() {
    "$1" -c 'import sys; v = sys.version_info[:2]; print("%d.%d" % v if v in ((3, 11), (3, 12)) else "")' \
        2>/dev/null || true
}

apt_command() { echo "apt-get update && apt-get install -y --no-install-recommends $*"; }

# Prints the command $1 for a user who is not root.
as_root() { if command -v sudo >/dev/null 2>&1; then echo "sudo sh -c '$1'"; else echo "su -c '$1'"; fi; }

run_apt() { DEBIAN_FRONTEND=noninteractive sh -c "$1" </dev/null >$venv/apt.log 2>&1; }

# Installs the system packages $2... as root, or ends with the command to type; $1 is the reason.
install_packages() {
    local reason=$1 command
    shift
    command=$(apt_command "$@")
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "$reason" "This system is not Debian or Ubuntu, where the packages are called: $*" \
            "Install the packages of your system that correspond to them, then repeat the make command."
    fi
    if ! is_root; then
        fail "$reason" "Type this, then repeat the make command:" "" "  $(as_root "$command")"
    fi
    say "installing system packages: $*"
    if ! run_apt "$command"; then
        tail -n 5 $venv/apt.log >&2
        fail "$reason" "apt-get could not install them (its output is in $venv/apt.log). Try by hand:" "" "  $command"
    fi
}

has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Sets python to the first supported interpreter that can make virtual environments, or else to the first supported one.
find_python() {
    local candidate candidates=(python3.11 python3.12 python3)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    python=""
    for candidate in "${candidates[@]}"; do
        [ -n "$(supported_version "$candidate")" ] || continue
        python=${python:-$candidate}
        if has_venv "$candidate"; then
            python=$candidate
            return
        fi
    done
    [ -n "$python" ] || fail \
        "d3d needs Python 3.11 or 3.12; found: ${PYTHON:-python3}, $("${PYTHON:-python3}" --version 2>&1 | tail -n 1)" \
        "Debian 12:    apt-get install python3 python3-venv" \
        "Ubuntu 24.04: apt-get install python3 python3-venv" \
        "other:        install Python 3.11 or 3.12, then: make setup PYTHON=/path/to/python3.12"
}

missing_libraries() { [ -n "${D3D_NO_SYSTEM_CHECK:-}" ] || "$1" scripts/system_libraries.py "${@:2}"; }

# Installs all system packages that the interpreter $1 needs; $2 is yes if it is going to make an environment.
check_system() {
    local python=$1 packages reason
    packages=$(missing_libraries "$python" | tr '\n' ' ')
    reason="system libraries that open3d, pyrender and mitsuba load are missing."
    if [ "$2" = yes ] && ! has_venv "$python"; then
        packages="python$(supported_version "$python")-venv $packages"
        reason="system packages are missing: Python's venv module or libraries that open3d, pyrender and mitsuba load."
    fi
    [ -n "$packages" ] || return 0
    # shellcheck disable=SC2086  # a list of names
    install_packages "$reason" $packages
    [ "$2" != yes ] || has_venv "$python" ||
        fail "$python still cannot make virtual environments (import ensurepip, venv fails)." \
            "Install a complete Python 3.11 or 3.12, then: make setup PYTHON=/path/to/it"
    packages=$(missing_libraries "$python" | tr '\n' ' ')
    [ -z "$packages" ] ||
        fail "apt-get ran, yet the libraries of these packages still cannot be loaded: $packages" \
            "To continue without them (no mesh fusion, no rendering): D3D_NO_SYSTEM_CHECK=1 make setup"
}

# Installs the optional packages if possible. Otherwise prints their names and what is missing without them, and
# continues. One package at a time: a system may offer only some of them.
add_optional() {
    local line package command
    missing_libraries "$1" --optional | while IFS= read -r line; do
        package=${line%%:*}
        command=$(apt_command "$package")
        if ! command -v apt-get >/dev/null 2>&1; then
            command="install the corresponding package of your system"
        elif ! is_root; then
            command=$(as_root "$command")
        else
            say "installing system packages: $package"
            if run_apt "$command"; then continue; fi
        fi
        say "without $package ${line#*: }"
        say "to add it: $command"
    done
}

# dash, a dependency of open3d, has an old JupyterLab extension. Without this setting JupyterLab offers at every start to
# rebuild itself, which downloads packages.
quiet_jupyterlab() {
    local folder=$venv/etc/jupyter/labconfig
    [ ! -e $folder/page_config.json ] || return 0
    mkdir -p $folder
    echo '{"buildAvailable": false, "buildCheck": false}' >$folder/page_config.json
}

# Identifies the inputs of the environment. The folder is one of them: a virtual environment cannot be moved.
fingerprint() {
    { cat pyproject.toml constraints.txt; $venv/bin/python -VV; pwd -P; } | sha256sum | cut -d ' ' -f 1
}

# Succeeds if .venv has a supported Python and was made in this folder; does not check its packages.
is_whole() {
    [ -x $venv/bin/python ] && [ -n "$(supported_version $venv/bin/python)" ] &&
        grep -qF "$(pwd -P)/$venv" $venv/bin/activate 2>/dev/null
}

is_current() { [ -f $stamp ] && is_whole && [ "$(cat $stamp)" = "$(fingerprint)" ]; }

if is_current; then
    check_system $venv/bin/python no
    exit 0
fi
if command -v flock >/dev/null 2>&1; then
    exec 9<scripts/setup.sh
    flock -n 9 || { say "waiting for another setup in this folder"; flock 9 || true; }
    if is_current; then exit 0; fi
fi

mkdir -p $venv
rm -f $stamp
if is_whole; then
    check_system $venv/bin/python no
    $venv/bin/python -m pip --version >/dev/null 2>&1 || $venv/bin/python -m ensurepip >/dev/null
else
    find_python
    check_system "$python" yes
    say "creating $venv with $python ($("$python" --version))"
    "$python" -m venv --clear $venv
fi

add_optional $venv/bin/python

started=$SECONDS
say "installing d3d[$extras] and the $(grep -c == constraints.txt) packages of constraints.txt"
say "a new $venv takes about 3 minutes and 8 GB, most of it CUDA libraries; installed packages are kept"
$venv/bin/python -m pip install --quiet --progress-bar off --disable-pip-version-check --no-input --use-pep517 \
    --constraint constraints.txt --editable ".[$extras]" ||
    fail "pip could not install the packages (see above)." \
        "Repeat the make command to continue: packages that are installed are kept."
quiet_jupyterlab
fingerprint >$stamp.part
mv $stamp.part $stamp
say "done in $((SECONDS - started)) s"
