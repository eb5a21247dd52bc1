// What the program's own ELF file says about it: which variables kernels declared __shared__ (their
// symbols carry the tag of cuda_emulation.h's __shared__), and the names of kernels, for messages.
#include "gpu.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>

namespace emulation {

namespace {

struct Program {
    std::vector<SharedVariable> shared;
    std::map<uintptr_t, std::string> functions; // by address, mangled
};

int load_address_of_first(struct dl_phdr_info *info, size_t, void *to) {
    *static_cast<uintptr_t *>(to) = info->dlpi_addr;
    return 1; // the program itself comes first
}

Program read_program() {
    Program program;
    uintptr_t base = 0;
    dl_iterate_phdr(load_address_of_first, &base);
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) die("cannot read /proc/self/exe");
    void *mapped = mmap(nullptr, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (mapped == MAP_FAILED) die("cannot map /proc/self/exe");
    const char *bytes = static_cast<const char *>(mapped);
    const Elf64_Ehdr *header = reinterpret_cast<const Elf64_Ehdr *>(bytes);
    const Elf64_Shdr *sections = reinterpret_cast<const Elf64_Shdr *>(bytes + header->e_shoff);
    const Elf64_Shdr *table = nullptr;
    for (int i = 0; i < header->e_shnum; i++)
        if (sections[i].sh_type == SHT_SYMTAB) table = &sections[i];
    if (!table)
        die("the program has no symbol table: link it without -s, so that shared variables are "
            "found");
    const Elf64_Sym *symbols = reinterpret_cast<const Elf64_Sym *>(bytes + table->sh_offset);
    const char *names = bytes + sections[table->sh_link].sh_offset;
    for (size_t i = 0; i < table->sh_size / sizeof *symbols; i++) {
        const Elf64_Sym &symbol = symbols[i];
        const char *name = names + symbol.st_name;
        if (symbol.st_shndx == SHN_UNDEF) continue;
        if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC)
            program.functions[base + symbol.st_value] = name;
        if (ELF64_ST_TYPE(symbol.st_info) == STT_OBJECT && strncmp(name, "_Z", 2) == 0 &&
            strstr(name, "B13shared_memory"))
            program.shared.push_back(
                {reinterpret_cast<char *>(base + symbol.st_value), (size_t)symbol.st_size});
    }
    munmap(mapped, (size_t)status.st_size);
    close(file);
    return program;
}

const Program &program() {
    static const Program read = read_program();
    return read;
}

} // namespace

const std::vector<SharedVariable> &shared_variables() {
    return program().shared;
}

std::string function_name(const void *function) {
    auto found = program().functions.find((uintptr_t)function);
    if (found == program().functions.end()) return "a kernel";
    int status = 0;
    char *plain = abi::__cxa_demangle(found->second.c_str(), nullptr, nullptr, &status);
    std::string name = status == 0 ? plain : found->second;
    free(plain);
    return name;
}

} // namespace emulation
