/* The least that a durable Storage SCP with rows does, in C: what no receiver in any language can leave out.
 *
 * One thread an association. It accepts every presentation context, takes C-STORE and C-ECHO, hashes each
 * dataset with OpenSSL's SHA-256, writes it past the page cache, gives it its final name, waits for the disk,
 * commits its row in SQLite and answers. It looks at no attribute, checks nothing, and survives nothing: a
 * floor to measure against, no receiver.
 *
 * Build: cc -O2 -pthread -o ingest_floor ingest_floor.c -l:libcrypto.so.3 -l:libsqlite3.so.0
 * Run:   ingest_floor PORT FOLDER
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* OpenSSL's EVP and SQLite, declared here since their headers are not installed everywhere */
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct evp_md_st EVP_MD;
extern EVP_MD_CTX *EVP_MD_CTX_new(void);
extern const EVP_MD *EVP_sha256(void);
extern int EVP_DigestInit_ex(EVP_MD_CTX *, const EVP_MD *, void *);
extern int EVP_DigestUpdate(EVP_MD_CTX *, const void *, size_t);
extern int EVP_DigestFinal_ex(EVP_MD_CTX *, unsigned char *, unsigned int *);
typedef struct sqlite3 sqlite3;
typedef struct sqlite3_stmt sqlite3_stmt;
extern int sqlite3_open(const char *, sqlite3 **);
extern int sqlite3_exec(sqlite3 *, const char *, void *, void *, char **);
extern int sqlite3_prepare_v2(sqlite3 *, const char *, int, sqlite3_stmt **, const char **);
extern int sqlite3_bind_text(sqlite3_stmt *, int, const char *, int, void (*)(void *));
extern int sqlite3_bind_int64(sqlite3_stmt *, int, long long);
extern int sqlite3_step(sqlite3_stmt *);
extern int sqlite3_reset(sqlite3_stmt *);

enum { MAXIMUM_PDU = 131072, OBJECT_BYTES = 8 << 20, BLOCK = 4096, TEXT = 128 };
enum { ASSOCIATE_RQ = 1, ASSOCIATE_AC = 2, P_DATA = 4, RELEASE_RQ = 5, RELEASE_RP = 6 };
enum { C_STORE_RQ = 0x0001, C_ECHO_RQ = 0x0030, RESPONSE = 0x8000 };

enum { SQLITE_OK = 0, SQLITE_DONE = 101, STUDY = 1 };

static const char *folder;
static sqlite3 *database;
static sqlite3_stmt *begin, *touch, *insert, *commit;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

/* As many columns and indexes as the rows of Voxtrial */
static const char schema[] =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
    "CREATE TABLE studies (id INTEGER PRIMARY KEY, uid TEXT, state TEXT, last_instance_at TEXT);"
    "CREATE TABLE instances (id INTEGER PRIMARY KEY, sop_instance_uid TEXT UNIQUE, sop_class_uid TEXT,"
    " study_instance_uid TEXT, series_instance_uid TEXT, study INTEGER, modality TEXT, transfer_syntax TEXT,"
    " path TEXT, size INTEGER, sha256 TEXT, calling_ae TEXT, received_at TEXT);"
    "CREATE INDEX of_study ON instances (study);"
    "INSERT INTO studies VALUES (1, '1.2.826.0.1.3680043.8.498.1', 'RECEIVING', '');";

typedef struct {
    uint16_t field, message_id;
    char sop_class[TEXT], sop_instance[TEXT];
} Command;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void fail_sql(int code, int expected)
{
    if (code != expected) {
        fprintf(stderr, "SQLite: %d\n", code);
        exit(1);
    }
}

static sqlite3_stmt *prepare(const char *statement)
{
    sqlite3_stmt *prepared;
    fail_sql(sqlite3_prepare_v2(database, statement, -1, &prepared, NULL), SQLITE_OK);
    return prepared;
}

static void open_database(void)
{
    char path[512];
    snprintf(path, sizeof path, "%s/floor.db", folder);
    fail_sql(sqlite3_open(path, &database), SQLITE_OK);
    fail_sql(sqlite3_exec(database, schema, NULL, NULL, NULL), SQLITE_OK);
    begin = prepare("BEGIN IMMEDIATE");
    touch = prepare("UPDATE studies SET last_instance_at = ?1 WHERE id = ?2");
    insert = prepare("INSERT INTO instances (sop_instance_uid, sop_class_uid, study_instance_uid,"
                     " series_instance_uid, study, modality, transfer_syntax, path, size, sha256, calling_ae,"
                     " received_at) VALUES (?1, ?2, '1.2.826.0.1.3680043.8.498.1',"
                     " '1.2.826.0.1.3680043.8.498.2', ?3, 'CT', '1.2.840.10008.1.2.1', ?4, ?5, ?6,"
                     " 'STORESCU', ?7)");
    commit = prepare("COMMIT");
}

static void run(sqlite3_stmt *statement)
{
    fail_sql(sqlite3_step(statement), SQLITE_DONE);
    sqlite3_reset(statement);
}

static int read_all(int connection, uint8_t *to, size_t count)
{
    while (count) {
        ssize_t got = recv(connection, to, count, MSG_WAITALL);
        if (got <= 0)
            return 0;
        to += got;
        count -= (size_t)got;
    }
    return 1;
}

static void send_all(int connection, const uint8_t *from, size_t count)
{
    if (send(connection, from, count, MSG_NOSIGNAL) != (ssize_t)count)
        pthread_exit(NULL);
}

static uint32_t big_endian(const uint8_t *at, int bytes)
{
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

static uint8_t *put_big(uint8_t *at, uint32_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--)
        *at++ = (uint8_t)(value >> 8 * i);
    return at;
}

static uint8_t *put_item(uint8_t *at, uint8_t type, const void *value, size_t length)
{
    *at++ = type;
    *at++ = 0;
    at = put_big(at, (uint32_t)length, 2);
    memcpy(at, value, length);
    return at + length;
}

/* A-ASSOCIATE-AC: every context with the first transfer syntax that is offered (PS3.8 9.3.3) */
static void accept_all(int connection, const uint8_t *request, size_t length)
{
    static const char application[] = "1.2.840.10008.3.1.1.1", implementation[] = "1.2.3.4";
    uint8_t *pdu = calloc(1, length + 512), user[64], *end_of_user = user, maximum[4];
    uint8_t *at = pdu + 6;
    memcpy(at, request, 68);
    at = put_item(at + 68, 0x10, application, sizeof application - 1);
    for (size_t i = 68; i + 4 <= length; i += 4 + big_endian(request + i + 2, 2)) {
        const uint8_t *item = request + i;
        size_t item_length = big_endian(item + 2, 2);
        if (item[0] != 0x20)
            continue;
        for (size_t j = 8; j + 4 <= item_length + 4; j += 4 + big_endian(item + j + 2, 2)) {
            if (item[j] != 0x40)
                continue;
            size_t syntax = 4 + big_endian(item + j + 2, 2);
            uint8_t context[TEXT] = {item[4]};
            memcpy(context + 4, item + j, syntax);
            at = put_item(at, 0x21, context, 4 + syntax);
            break;
        }
    }
    put_big(maximum, MAXIMUM_PDU, 4);
    end_of_user = put_item(end_of_user, 0x51, maximum, 4);
    end_of_user = put_item(end_of_user, 0x52, implementation, sizeof implementation - 1);
    at = put_item(at, 0x50, user, (size_t)(end_of_user - user));
    pdu[0] = ASSOCIATE_AC;
    put_big(pdu + 2, (uint32_t)(at - pdu - 6), 4);
    send_all(connection, pdu, (size_t)(at - pdu));
    free(pdu);
}

/* Implicit VR little endian, as every command set is (PS3.7 6.3.1) */
static Command parse_command(const uint8_t *data, size_t length)
{
    Command command = {0};
    for (size_t i = 0; i + 8 <= length;) {
        uint16_t element = (uint16_t)(data[i + 2] | data[i + 3] << 8);
        uint32_t size;
        memcpy(&size, data + i + 4, 4);
        const uint8_t *value = data + i + 8;
        if (element == 0x0100)
            memcpy(&command.field, value, 2);
        else if (element == 0x0110)
            memcpy(&command.message_id, value, 2);
        else if (element == 0x0002 && size < TEXT)
            memcpy(command.sop_class, value, size);
        else if (element == 0x1000 && size < TEXT)
            memcpy(command.sop_instance, value, size);
        i += 8 + size;
    }
    return command;
}

static uint8_t *put_element(uint8_t *at, uint16_t element, const void *value, uint32_t size)
{
    uint16_t group = 0;
    memcpy(at, &group, 2);
    memcpy(at + 2, &element, 2);
    memcpy(at + 4, &size, 4);
    memcpy(at + 8, value, size);
    return at + 8 + size;
}

static void answer(int connection, uint8_t context, const Command *command)
{
    uint8_t pdu[512], *set = pdu + 12, *at = set + 12;
    uint16_t field = command->field | RESPONSE, none = 0x0101, success = 0;
    uint32_t class_size = (uint32_t)(strlen(command->sop_class) + 1) & ~1u;
    uint32_t instance_size = (uint32_t)(strlen(command->sop_instance) + 1) & ~1u;
    at = put_element(at, 0x0002, command->sop_class, class_size);
    at = put_element(at, 0x0100, &field, 2);
    at = put_element(at, 0x0120, &command->message_id, 2);
    at = put_element(at, 0x0800, &none, 2);
    at = put_element(at, 0x0900, &success, 2);
    if (field == (C_STORE_RQ | RESPONSE))
        at = put_element(at, 0x1000, command->sop_instance, instance_size);
    uint32_t group_length = (uint32_t)(at - set - 12);
    put_element(set, 0x0000, &group_length, 4);
    uint32_t length = (uint32_t)(at - set);
    pdu[0] = P_DATA;
    pdu[1] = 0;
    put_big(pdu + 2, length + 6, 4);
    put_big(pdu + 6, length + 2, 4);
    pdu[10] = context;
    pdu[11] = 3; /* a command, and its last fragment */
    send_all(connection, pdu, (size_t)(at - pdu));
}

static void record(const Command *command, const char *path, size_t size, const uint8_t digest[32])
{
    char sha256[65], now[32];
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    snprintf(now, sizeof now, "%lld.%06ld", (long long)time.tv_sec, time.tv_nsec / 1000);
    for (int i = 0; i < 32; i++)
        snprintf(sha256 + 2 * i, 3, "%02x", digest[i]);
    pthread_mutex_lock(&writing);
    run(begin);
    sqlite3_bind_text(touch, 1, now, -1, NULL);
    sqlite3_bind_int64(touch, 2, STUDY);
    run(touch);
    sqlite3_bind_text(insert, 1, command->sop_instance, -1, NULL);
    sqlite3_bind_text(insert, 2, command->sop_class, -1, NULL);
    sqlite3_bind_int64(insert, 3, STUDY);
    sqlite3_bind_text(insert, 4, path, -1, NULL);
    sqlite3_bind_int64(insert, 5, (long long)size);
    sqlite3_bind_text(insert, 6, sha256, -1, NULL);
    sqlite3_bind_text(insert, 7, now, -1, NULL);
    run(insert);
    run(commit);
    pthread_mutex_unlock(&writing);
}

/* Past the page cache, where the file system can */
static int create(const char *path)
{
    int part = open(path, O_CREAT | O_EXCL | O_WRONLY | O_DIRECT, 0640);
    if (part < 0 && errno == EINVAL)
        part = open(path, O_CREAT | O_WRONLY, 0640);
    if (part < 0)
        fail(path);
    return part;
}

/* Write whole blocks past the page cache and the rest through it, link, wait for the disk, unlink the part. */
static void keep(const char *final, int part, const char *path, const uint8_t *object, size_t size)
{
    size_t blocks = size - size % BLOCK;
    if (write(part, object, blocks) != (ssize_t)blocks)
        fail("write");
    fcntl(part, F_SETFL, 0);
    if (size > blocks && write(part, object + blocks, size - blocks) != (ssize_t)(size - blocks))
        fail("write");
    if (link(path, final) || fsync(part) || close(part) || unlink(path))
        fail(final);
}

static void *serve(void *argument)
{
    int connection = (int)(intptr_t)argument, on = 1, part = -1;
    uint8_t *object = mmap(NULL, OBJECT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *other = malloc(1 << 18), header[6], value_header[6], digest[32];
    char path[256], final[512];
    size_t filled = 0;
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    Command command = {0};
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    snprintf(path, sizeof path, "%s/%d.part", folder, connection);
    while (read_all(connection, header, 6)) {
        size_t left = big_endian(header + 2, 4);
        if (header[0] == ASSOCIATE_RQ && left <= 1 << 18 && read_all(connection, other, left)) {
            accept_all(connection, other, left);
        } else if (header[0] == RELEASE_RQ && read_all(connection, other, left)) {
            const uint8_t released[10] = {RELEASE_RP, 0, 0, 0, 0, 4};
            send_all(connection, released, sizeof released);
        } else if (header[0] == P_DATA) {
            while (left && read_all(connection, value_header, 6)) {
                size_t count = big_endian(value_header, 4) - 2;
                uint8_t context = value_header[4], control = value_header[5];
                uint8_t *to = control & 1 ? other : object + filled;
                if (filled + count > OBJECT_BYTES || !read_all(connection, to, count))
                    pthread_exit(NULL);
                left -= count + 6;
                if (control & 1) {
                    command = parse_command(other, count);
                    if (command.field == C_ECHO_RQ) {
                        answer(connection, context, &command);
                        continue;
                    }
                    filled = 0;
                    EVP_DigestInit_ex(hash, EVP_sha256(), NULL);
                    part = create(path);
                    continue;
                }
                EVP_DigestUpdate(hash, object + filled, count);
                filled += count;
                setsockopt(connection, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
                if (control & 2) {
                    EVP_DigestFinal_ex(hash, digest, NULL);
                    snprintf(final, sizeof final, "%s/%s.dcm", folder, command.sop_instance);
                    keep(final, part, path, object, filled);
                    record(&command, final, filled, digest);
                    answer(connection, context, &command);
                }
            }
        } else {
            break;
        }
    }
    close(connection);
    munmap(object, OBJECT_BYTES);
    free(other);
    return NULL;
}

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: ingest_floor PORT FOLDER\n");
        return 2;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[1]))};
    int listening = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    folder = arguments[2];
    open_database();
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 256))
        fail("listen");
    for (;;) {
        pthread_t thread;
        int connection = accept(listening, NULL, NULL);
        if (connection < 0)
            continue;
        pthread_create(&thread, NULL, serve, (void *)(intptr_t)connection);
        pthread_detach(thread);
    }
}
