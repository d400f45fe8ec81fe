/*
 * replay.c - runs a fuzz target over the files of a corpus folder, and over every prefix of each,
 * so that the fuzzers' finds are ordinary tests. Usage: replay FOLDER
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
replay_file(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return -1;
    }
    static uint8_t data[1 << 16];
    size_t size = fread(data, 1, sizeof(data), file);
    fclose(file);
    for (size_t prefix = 1; prefix <= size; prefix++) {
        LLVMFuzzerTestOneInput(data, prefix);
    }
    return 0;
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    DIR *folder = opendir(argv[1]);
    if (folder == NULL) {
        perror(argv[1]);
        return 2;
    }
    int count = 0;
    int failures = 0;
    struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] != '.') {
            failures += replay_file(argv[1], entry->d_name) < 0;
            count++;
        }
    }
    closedir(folder);
    printf("%d inputs\n", count);
    return failures == 0 && count > 0 ? 0 : 1;
}
