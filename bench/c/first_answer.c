/*
 * first_answer.c - starts a server and ends with it once it has answered one request:
 *
 *   first_answer COMMAND [ARGUMENT...]
 *
 * The argument PORT is replaced by a free port, another one in each run: the listening socket of a
 * killed server with an io_uring outlives its process for a moment and would take the next run's
 * connection.
 *
 * hyperfine times the whole, so nothing here may take long: one fork, a connection attempt every
 * half millisecond, SIGKILL at the end because an orderly shutdown is not what is measured.
 * Exit status: 0 when the answer began with "HTTP/1.1 200 ", otherwise 1; 2 for bad usage.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ATTEMPTS 40000 /* 20 s */
#define ATTEMPT_NS 500000
#define ANSWER_SECONDS 10
#define PORT_ARGUMENT "PORT"
#define EXPECTED "HTTP/1.1 200 "

static bool
answered(int fd)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    struct timeval limit = {.tv_sec = ANSWER_SECONDS};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(request) - 1) {
        return false;
    }
    char answer[sizeof(EXPECTED) - 1];
    ssize_t n = recv(fd, answer, sizeof(answer), MSG_WAITALL);
    return n == (ssize_t)sizeof(answer) && memcmp(answer, EXPECTED, sizeof(answer)) == 0;
}

/* Does not reap: the process id stays ours until the end. */
static bool
has_ended(pid_t server)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)server, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
}

/* Connects as soon as somebody listens; false when the server ended or never did. */
static bool
wait_for_answer(pid_t server, uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct timespec pause = {.tv_nsec = ATTEMPT_NS};
    for (int i = 0; i < ATTEMPTS && !has_ended(server); i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            perror("first_answer: socket");
            return false;
        }
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
            bool ok = answered(fd);
            close(fd);
            return ok;
        }
        close(fd);
        nanosleep(&pause, NULL);
    }
    return false;
}

/* A port that nobody has bound; 0 on failure. */
static uint16_t
free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool found = fd >= 0 && bind(fd, (struct sockaddr *)&address, length) == 0 &&
                 getsockname(fd, (struct sockaddr *)&address, &length) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return found ? ntohs(address.sin_port) : 0;
}

int
main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: first_answer COMMAND [ARGUMENT...]\n");
        return 2;
    }
    uint16_t port = free_port();
    if (port == 0) {
        perror("first_answer: no free port");
        return 1;
    }
    char digits[8];
    snprintf(digits, sizeof(digits), "%u", (unsigned)port);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], PORT_ARGUMENT) == 0) {
            argv[i] = digits;
        }
    }
    pid_t server = fork();
    if (server < 0) {
        perror("first_answer: fork");
        return 1;
    }
    if (server == 0) {
        execvp(argv[1], argv + 1);
        perror("first_answer: exec");
        _exit(127);
    }
    bool ok = wait_for_answer(server, port);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    if (!ok) {
        fprintf(stderr, "first_answer: no answer on port %u\n", (unsigned)port);
    }
    return ok ? 0 : 1;
}
