// The referee lane's reader: what a C compiler finds in activity records, by the headers of one
// CUPTI version. The test that builds it names kinds, structs, fields and constants in two files:
// STRUCTS defines STRUCT_<kind> for this version, ROWS has
//     KIND(kind) FIELD(number's path) PLACE(other field's path) ... END    and    CONSTANT(name)
//
//   referee layout        how large the structs are, where their fields lie, what the constants are
//   referee fields FILE   a line for each record of the file: its kind, and every field's value
#include <cupti.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include STRUCTS

// A field's bits as an unsigned number: a signed field must not spread its sign.
#define MASK(field) (UINTPTR_MAX >> 8 * (sizeof(uintptr_t) - sizeof(field)))
#define NUMBER(field) ((unsigned long long)((uintptr_t)(field) & MASK(field)))

static void print_layout(void) {
    printf("version %d %d\n", CUPTI_API_VERSION, CUDA_VERSION);
#define KIND(kind)                                                                                 \
    {                                                                                              \
        typedef STRUCT_##kind Record;                                                              \
        printf("kind " #kind " %d %zu\n", CUPTI_ACTIVITY_KIND_##kind, sizeof(Record));
#define FIELD(path)                                                                                \
    printf("field " #path " %zu %zu\n", offsetof(Record, path), sizeof(((Record *)0)->path));
#define PLACE FIELD
#define END }
#define CONSTANT(name) printf("constant " #name " %d\n", name);
#include ROWS
#undef KIND
#undef FIELD
#undef PLACE
#undef END
#undef CONSTANT
}

// Prints the record at `bytes` and returns its size; 0 where it is cut, or ROWS has no such kind.
static size_t print_fields(const unsigned char *bytes, size_t left) {
    int kind;
    if (left < sizeof kind) {
        return 0;
    }
    memcpy(&kind, bytes, sizeof kind);
#define KIND(name)                                                                                 \
    if (kind == CUPTI_ACTIVITY_KIND_##name) {                                                      \
        typedef STRUCT_##name Record;                                                              \
        const Record *record = (const Record *)bytes;                                              \
        if (left < sizeof(Record)) {                                                               \
            return 0;                                                                              \
        }                                                                                          \
        printf(#name);
#define FIELD(path) printf(" " #path "=%llu", NUMBER(record->path));
#define PLACE(path)
#define END                                                                                        \
    putchar('\n');                                                                                 \
    return sizeof(Record);                                                                         \
    }
#define CONSTANT(name)
#include ROWS
    return 0;
}

static int print_file(const char *path) {
    FILE *file = fopen(path, "rb");
    long length;
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (length = ftell(file)) < 0) {
        perror(path);
        return 1;
    }
    rewind(file);
    // malloc aligns to 16; a record needs 8, and each is a multiple of 8 long.
    unsigned char *bytes = malloc((size_t)length + 1);
    if (bytes == NULL || fread(bytes, 1, (size_t)length, file) != (size_t)length) {
        perror(path);
        return 1;
    }
    for (size_t at = 0, size; at < (size_t)length; at += size) {
        size = print_fields(bytes + at, (size_t)length - at);
        if (size == 0) {
            fprintf(stderr, "%s: no record at %zu\n", path, at);
            return 1;
        }
    }
    free(bytes);
    fclose(file);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "layout") == 0) {
        print_layout();
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "fields") == 0) {
        return print_file(argv[2]);
    }
    fprintf(stderr, "usage: referee layout | fields FILE\n");
    return 2;
}
