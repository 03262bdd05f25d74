#!/usr/bin/env bash
# Runs every test of the workspace: unit, integration and documentation tests, with all features.
#
#   ./test.sh                     everything; starts throwaway PostgreSQL and MariaDB servers for it
#   ./test.sh --embedded          only what needs no server; says what it left out
#   ./test.sh -- ARGUMENTS        the rest goes to `cargo test`, e.g. ./test.sh -- -p zdm-core
#   ./test.sh --run COMMAND ...   runs a command instead of the tests, with the servers up
#
# Servers that are not installed are installed from the system's packages. With ZDM_TEST_POSTGRES_URL or
# ZDM_TEST_MYSQL_URL set, that server is used instead of a throwaway one; its user must be allowed to create
# databases. Throwaway servers listen on loopback only and are gone when this script ends, however it ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

embedded=no
command=()
while [ $# -gt 0 ]; do
    case "$1" in
        --embedded) embedded=yes ;;
        --run) shift; command=("$@"); set --; break ;;
        --) shift; break ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) echo "test.sh: unknown option '$1'; see ./test.sh --help" >&2; exit 2 ;;
    esac
    shift
done

selection=("$@")
if [ ${#selection[@]} -eq 0 ]; then
    selection=(--workspace)
fi

fail() {
    printf 'test.sh: %s\n' "$@" >&2
    exit 2
}

# ---- Throwaway servers ------------------------------------------------------------------------------------

servers=""      # the directory of the throwaway servers
postgres_pid=""
mariadb_pid=""
tests_pid=""

stop_one() { # PID SIGNAL
    [ -n "$1" ] || return 0
    kill -s "$2" "$1" 2>/dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -s KILL "$1" 2>/dev/null || true
}

stop_servers() {
    trap '' INT TERM HUP
    if [ -n "$tests_pid" ]; then
        kill -s TERM -- "-$tests_pid" 2>/dev/null || true
    fi
    stop_one "$postgres_pid" INT # fast shutdown
    stop_one "$mariadb_pid" TERM
    postgres_pid="" mariadb_pid=""
    if [ -n "$servers" ]; then
        rm -rf "$servers"
        servers=""
    fi
}
trap stop_servers EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Servers refuse to run as root, so root lends them to a user that owns nothing. The command takes the place
# of the shell that calls this, so that its process id is that of the shell.
become() { # USER COMMAND ...
    local user=$1
    shift
    if [ "$(id -u)" -ne 0 ]; then
        exec "$@"
    fi
    exec setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups -- "$@"
}

user_for() { # CANDIDATE ...
    if [ "$(id -u)" -ne 0 ]; then
        id -un
        return
    fi
    local user
    for user in "$@" nobody; do
        if id -u "$user" >/dev/null 2>&1; then
            echo "$user"
            return
        fi
    done
    fail "root may not run a database server, and there is no user $* or nobody to run it as"
}

answers() { # PORT
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

free_port() {
    local port
    for _ in $(seq 200); do
        port=$((20000 + RANDOM % 12000))
        if ! answers "$port"; then
            echo "$port"
            return
        fi
    done
    fail "found no free port on the loopback address"
}

postgres_bin() { # the directory of the newest server that is installed
    local dir
    for dir in $(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin 2>/dev/null | sort -rV); do
        if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
            echo "$dir"
            return
        fi
    done
    if command -v initdb >/dev/null && command -v postgres >/dev/null; then
        dirname "$(command -v initdb)"
    fi
}

mariadb_server() { # the program, MariaDB before MySQL
    local name
    for name in mariadbd mysqld; do
        PATH=$PATH:/usr/sbin:/usr/local/sbin:/usr/libexec command -v "$name" && return
    done
    return 0
}

install_packages() { # PACKAGE ...
    local sudo=()
    if ! command -v apt-get >/dev/null; then
        fail "these database servers are missing and there is no apt-get to install them: $*" \
            "install them, or give servers by ZDM_TEST_POSTGRES_URL and ZDM_TEST_MYSQL_URL, or run ./test.sh --embedded"
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null || { [ ! -t 0 ] && ! sudo -n true 2>/dev/null; }; then
            fail "these database servers are missing, and this user may not install them: $*" \
                "run: apt-get install $* (as root)" \
                "or give servers by ZDM_TEST_POSTGRES_URL and ZDM_TEST_MYSQL_URL, or run ./test.sh --embedded"
        fi
        sudo=(sudo)
    fi
    echo "test.sh: installing $*"
    # A service that the packages start is left alone: the tests use servers of their own.
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" ||
        {
            "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
                "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
        } || fail "the packages $* could not be installed; what apt-get says is above" \
            "install them yourself, or give servers by ZDM_TEST_POSTGRES_URL and ZDM_TEST_MYSQL_URL, or run ./test.sh --embedded"
}

# Starts a server until it answers; tries other ports if somebody took the chosen one meanwhile.
# `start_postgres PORT` and `start_mariadb PORT` leave the process id in `started`.
start() { # NAME LOG
    local name=$1 log=$2 port
    for _ in 1 2 3; do
        port=$(free_port)
        "start_$name" "$port"
        for _ in $(seq 600); do
            kill -0 "$started" 2>/dev/null || break
            if answers "$port"; then
                started_port=$port
                return
            fi
            sleep 0.1
        done
        stop_one "$started" KILL
    done
    tail -n 20 "$log" >&2 || true
    fail "the throwaway $name server does not start; its last words are above"
}

start_postgres() {
    (become "$postgres_user" "$postgres_bin/postgres" -D "$servers/postgres/data" -p "$1" -k "$servers/postgres" \
        -c listen_addresses=127.0.0.1 -c max_connections=1000 -c log_min_messages=fatal) \
        >>"$servers/postgres.log" 2>&1 </dev/null &
    started=$!
    postgres_pid=$started
}

start_mariadb() {
    (become "$mariadb_user" "$mariadb_server" --no-defaults --datadir="$servers/mariadb/data" --port="$1" \
        --bind-address=127.0.0.1 --socket="$servers/mariadb/socket" --pid-file="$servers/mariadb/pid" \
        --init-file="$servers/mariadb/init.sql" --skip-name-resolve --max-connections=2000 --skip-log-bin) \
        >>"$servers/mariadb.log" 2>&1 </dev/null &
    started=$!
    mariadb_pid=$started
}

server_directory() { # NAME USER
    mkdir -p "$servers/$1"
    chmod 700 "$servers/$1"
    if [ "$(id -u)" -eq 0 ]; then
        chown "$2" "$servers/$1"
    fi
}

throwaway_postgres() {
    postgres_bin=$(postgres_bin)
    postgres_user=$(user_for postgres)
    server_directory postgres "$postgres_user"
    (cd "$servers/postgres" && become "$postgres_user" "$postgres_bin/initdb" -D data -U zdm -A trust -E UTF8 \
        --locale=C --no-sync) >"$servers/postgres.log" 2>&1 || {
        tail -n 20 "$servers/postgres.log" >&2
        fail "initdb failed; its last words are above"
    }
    # A second one, which a test starts, kills and starts again by itself.
    cp -a "$servers/postgres/data" "$servers/postgres/crash"
    ZDM_TEST_POSTGRES_SERVER="$postgres_bin/postgres -D $servers/postgres/crash -k $servers/postgres -c listen_addresses=127.0.0.1"
    if [ "$(id -u)" -eq 0 ]; then
        ZDM_TEST_POSTGRES_SERVER="setpriv --reuid $postgres_user --regid $(id -g "$postgres_user") --clear-groups -- $ZDM_TEST_POSTGRES_SERVER"
    fi
    export ZDM_TEST_POSTGRES_SERVER
    start postgres "$servers/postgres.log"
    # It takes connections a little later than it opens its port.
    local ready=no
    for _ in $(seq 300); do
        if "$postgres_bin/psql" -X -q -h 127.0.0.1 -p "$started_port" -U zdm -d template1 -c "CREATE DATABASE zdm" \
            >>"$servers/postgres.log" 2>&1; then
            ready=yes
            break
        fi
        sleep 0.1
    done
    if [ "$ready" = no ]; then
        tail -n 20 "$servers/postgres.log" >&2
        fail "the throwaway PostgreSQL does not take statements; its last words are above"
    fi
    export ZDM_TEST_POSTGRES_URL="postgres://zdm@127.0.0.1:$started_port/zdm"
    echo "test.sh: $("$postgres_bin/postgres" --version) at $ZDM_TEST_POSTGRES_URL"
}

throwaway_mariadb() {
    mariadb_server=$(mariadb_server)
    mariadb_user=$(user_for mysql)
    server_directory mariadb "$mariadb_user"
    # One word a line is what an init file wants.
    printf '%s\n' "CREATE DATABASE IF NOT EXISTS zdm;" "CREATE USER IF NOT EXISTS 'zdm'@'%' IDENTIFIED BY 'zdm';" \
        "GRANT ALL ON *.* TO 'zdm'@'%' WITH GRANT OPTION;" >"$servers/mariadb/init.sql"
    chmod 644 "$servers/mariadb/init.sql"
    if "$mariadb_server" --no-defaults --version 2>/dev/null | grep -qi mariadb; then
        local install=mariadb-install-db
        command -v "$install" >/dev/null || install=mysql_install_db
        (become "$mariadb_user" "$install" --no-defaults --datadir="$servers/mariadb/data" --skip-test-db \
            --auth-root-authentication-method=normal) >"$servers/mariadb.log" 2>&1
    else
        (become "$mariadb_user" "$mariadb_server" --no-defaults --datadir="$servers/mariadb/data" \
            --initialize-insecure) >"$servers/mariadb.log" 2>&1
    fi || {
        tail -n 20 "$servers/mariadb.log" >&2
        fail "the data directory of MariaDB could not be made; its last words are above"
    }
    # The port opens when the init file has run.
    start mariadb "$servers/mariadb.log"
    export ZDM_TEST_MYSQL_URL="mysql://zdm:zdm@127.0.0.1:$started_port/zdm"
    echo "test.sh: $("$mariadb_server" --no-defaults --version 2>/dev/null) at $ZDM_TEST_MYSQL_URL"
}

start_servers() {
    local missing=()
    if [ -z "${ZDM_TEST_POSTGRES_URL:-}" ] && [ -z "$(postgres_bin)" ]; then
        missing+=(postgresql)
    fi
    if [ -z "${ZDM_TEST_MYSQL_URL:-}" ] && [ -z "$(mariadb_server)" ]; then
        missing+=(mariadb-server)
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        install_packages "${missing[@]}"
    fi
    # Short, because the path of a socket may not be long.
    servers=$(mktemp -d "/tmp/zdm-test.XXXXXX")
    chmod 755 "$servers"
    if [ -n "${ZDM_TEST_POSTGRES_URL:-}" ]; then
        echo "test.sh: uses the PostgreSQL of ZDM_TEST_POSTGRES_URL"
    else
        throwaway_postgres
    fi
    if [ -n "${ZDM_TEST_MYSQL_URL:-}" ]; then
        echo "test.sh: uses the MySQL or MariaDB of ZDM_TEST_MYSQL_URL"
    else
        throwaway_mariadb
    fi
}

# ---- Tests ------------------------------------------------------------------------------------------------

# The public suites of others lie beside the checkout, not in it.
if [ -z "${ZDM_CONFORMANCE:-}" ] && [ -d ../shared/conformance ]; then
    ZDM_CONFORMANCE=$(cd ../shared/conformance && pwd)
    export ZDM_CONFORMANCE
fi

if [ "$embedded" = yes ]; then
    # A test without its server is an error where CI is set. Here the servers are left out on purpose.
    unset ZDM_TEST_POSTGRES_URL ZDM_TEST_MYSQL_URL ZDM_TEST_POSTGRES_SERVER CI
    if [ ${#command[@]} -eq 0 ]; then
        command=(cargo test --locked --no-fail-fast --all-features "${selection[@]}")
    fi
else
    start_servers
    if [ ${#command[@]} -eq 0 ]; then
        command=(cargo test --locked --no-fail-fast --all-features "${selection[@]}")
    fi
fi

# In a process group of its own, so that a signal to this script ends it at once, with everything that it
# has started.
status=0
set -m
"${command[@]}" </dev/null &
tests_pid=$!
set +m
wait "$tests_pid" || status=$?
tests_pid=""

if [ "$embedded" = yes ]; then
    echo "test.sh --embedded left out: every test that needs PostgreSQL, MySQL or MariaDB. Each printed that it was skipped."
fi
exit "$status"
